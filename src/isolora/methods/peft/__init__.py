"""PEFT's methods behind our interface: the adapter, its configuration, virtual tokens, and the rest passed through by name."""

from isolora.methods.peft.pass_through import method

__all__ = ["method"]
