"""The round trip as a certificate: what was saved is whole, loads elsewhere with the same numbers, and scores what it scored."""

from isolora.certify.certificate import CHECKS, Certificate, Check, certify

__all__ = ["CHECKS", "Certificate", "Check", "certify"]
