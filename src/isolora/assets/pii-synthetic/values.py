"""Invented values of each entity type, by locale: Faker's, and a few that it lacks or does not localise."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date
from pathlib import Path

from faker import Faker
from faker.providers.address.it_IT import Provider as ItalianAddresses

LANGUAGES = {"en_US": "en", "en_GB": "en", "de_DE": "de", "fr_FR": "fr", "it_IT": "it"}
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
PREFIXES = {
    "en_US": ("Mr.", "Mrs.", "Ms.", "Dr."),
    "en_GB": ("Mr", "Mrs", "Ms", "Dr"),
    "de_DE": ("Herr", "Frau", "Dr.", "Prof."),
    "fr_FR": ("M.", "Mme", "Mlle", "Dr"),
    "it_IT": ("Sig.", "Sig.ra", "Dott.", "Dott.ssa"),
}
GENDERS = {
    "en": ("male", "female", "non-binary"),
    "de": ("männlich", "weiblich", "divers"),
    "fr": ("masculin", "féminin"),
    "it": ("maschile", "femminile"),
}
EYE_COLOURS = {
    "en": ("blue", "brown", "green", "grey", "hazel"),
    "de": ("blau", "braun", "grün", "grau"),
    "fr": ("bleus", "marron", "verts", "gris"),
    "it": ("azzurri", "castani", "verdi", "grigi"),
}
MONTHS = {
    "en": "January February March April May June July August September October November December".split(),
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre".split(),
}
ITALIAN_CITIES = sorted(ItalianAddresses.cities)  # in Faker they lie in another order in each process
LEGAL_FORMS = {
    "en_US": ("Inc", "LLC", "Ltd", "PLC", "Group"),
    "en_GB": ("Ltd", "PLC", "LLP", "Group"),
    "de_DE": ("GmbH", "AG", "KG", "e.V.", "OHG"),
    "fr_FR": ("S.A.", "SARL", "S.A.S.", "et Fils"),
    "it_IT": ("s.r.l.", "S.p.A.", "e figli", "Group"),
}
CURRENCIES = {"en_US": ("USD", "$"), "en_GB": ("GBP", "£"), "de_DE": ("EUR", "€"), "fr_FR": ("EUR", "€"), "it_IT": ("EUR", "€")}


class Values:
    """Draws the values of one locale; equal seeds give equal values."""

    def __init__(self, locale: str, seed: int) -> None:
        self.locale, self.language = locale, LANGUAGES[locale]
        self.fake = Faker(locale)
        self.fake.seed_instance(seed)
        self.random = random.Random(seed)
        lines = (line.partition(": ") for line in (Path(__file__).parent / "jobs.txt").read_text(encoding="utf-8").splitlines())
        self.jobs = next(jobs.split(", ") for language, _, jobs in lines if language == self.language)

    def draw(self, kind: str) -> str:
        """A value of the entity type, in one line."""
        return " ".join(str(self.makers[kind]()).split())

    @property
    def makers(self) -> dict[str, Callable[[], object]]:
        """Entity type (as ai4privacy/pii-masking-200k names it) -> what draws a value."""
        fake, pick, digits = self.fake, self.random.choice, self.digits
        return {
            "ACCOUNTNUMBER": lambda: digits(pick((8, 9, 10))),
            "AGE": lambda: self.random.randint(18, 96),
            "AMOUNT": self.amount,
            "BIC": fake.swift,
            "BITCOINADDRESS": lambda: pick("13") + "".join(self.random.choices(BASE58, k=self.random.randint(25, 33))),
            "BUILDINGNUMBER": lambda: self.random.randint(1, 400),
            "CITY": lambda: pick(ITALIAN_CITIES) if self.locale == "it_IT" else fake.city(),
            "COMPANYNAME": self.company,
            "CREDITCARDCVV": lambda: digits(3),
            "CREDITCARDISSUER": lambda: fake.credit_card_provider().partition(" 1")[0],
            "CREDITCARDNUMBER": self.card_number,
            "CURRENCYCODE": lambda: pick((CURRENCIES[self.locale][0], "EUR", "USD", "GBP", "CHF", "JPY")),
            "CURRENCYSYMBOL": lambda: CURRENCIES[self.locale][1],
            "DATE": lambda: self.written(fake.date_between(date(2015, 1, 1), date(2026, 12, 31))),
            "DOB": lambda: self.written(fake.date_between(date(1930, 1, 1), date(2008, 12, 31))),
            "EMAIL": fake.email,
            "EYECOLOR": lambda: pick(EYE_COLOURS[self.language]),
            "FIRSTNAME": fake.first_name,
            "GENDER": lambda: pick(GENDERS[self.language]),
            "HEIGHT": self.height,
            "IBAN": fake.iban,
            "IPV4": fake.ipv4,
            "IPV6": fake.ipv6,
            "JOBTITLE": lambda: pick(self.jobs),
            "LASTNAME": fake.last_name,
            "MAC": fake.mac_address,
            "PASSWORD": lambda: fake.password(length=self.random.randint(8, 14)),
            "PHONEIMEI": lambda: pick((f"{digits(2)}-{digits(6)}-{digits(6)}-{digits(1)}", digits(15))),
            "PHONENUMBER": fake.phone_number,
            "PIN": lambda: digits(pick((4, 6))),
            "PREFIX": lambda: pick(PREFIXES[self.locale]),
            "SECONDARYADDRESS": lambda: fake.secondary_address(),
            "SSN": fake.ssn,
            "STATE": lambda: fake.region() if self.locale == "fr_FR" else fake.administrative_unit(),
            "STREET": fake.street_name,
            "TIME": self.time,
            "URL": fake.url,
            "USERAGENT": fake.user_agent,
            "USERNAME": fake.user_name,
            "VEHICLEVIN": fake.vin,
            "VEHICLEVRM": fake.license_plate,
            "ZIPCODE": fake.postcode,
        }

    def company(self) -> str:
        """One or two surnames and a legal form, which tells a company from people."""
        names = [self.fake.last_name() for _ in range(self.random.choice((1, 2, 2)))]
        return f"{self.random.choice((' & ', '-', ', ')).join(names)} {self.random.choice(LEGAL_FORMS[self.locale])}"

    def digits(self, count: int) -> str:
        return "".join(self.random.choices("0123456789", k=count))

    def card_number(self) -> str:
        number = self.fake.credit_card_number()
        return " ".join(number[i : i + 4] for i in range(0, len(number), 4)) if self.random.random() < 0.3 else number

    def amount(self) -> str:
        number = self.random.choice((self.random.uniform(5, 500), self.random.uniform(500, 90_000)))
        text = f"{number:,.2f}" if self.random.random() < 0.7 else f"{number:,.0f}"
        return text if self.language == "en" else text.translate(str.maketrans(",.", ".,"))

    def height(self) -> str:
        centimetres = self.random.randint(150, 199)
        if self.locale == "en_US":
            return f"{centimetres // 30} ft {centimetres % 12} in"
        metres = f"{centimetres / 100:.2f}"
        return self.random.choice((f"{centimetres} cm", f"{metres if self.language == 'en' else metres.replace('.', ',')} m"))

    def time(self) -> str:
        hour, minute = self.random.randint(0, 23), self.random.randint(0, 59)
        if self.language == "en" and self.random.random() < 0.4:
            return f"{hour % 12 or 12}:{minute:02} {'am' if hour < 12 else 'pm'}"
        return f"{hour:02}:{minute:02}"

    def written(self, day: date) -> str:
        """A date as people of the locale write it."""
        month = MONTHS[self.language][day.month - 1]
        if self.locale == "en_US":
            return self.random.choice((f"{day:%m/%d/%Y}", f"{month} {day.day}, {day.year}", f"{day:%Y-%m-%d}"))
        if self.locale == "de_DE":
            return self.random.choice((f"{day:%d.%m.%Y}", f"{day.day}. {month} {day.year}"))
        return self.random.choice((f"{day:%d/%m/%Y}", f"{day.day} {month} {day.year}"))
