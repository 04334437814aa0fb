"""Sentences with named entities in the scheme of Few-NERD: whole words, one tag each, no B- and I-."""

from __future__ import annotations

import random
import re
from typing import Any

COARSE = ("O", "art", "building", "event", "location", "organization", "other", "person", "product")
FINE_BY_COARSE = {
    "art": "broadcastprogram film music other painting writtenart",
    "building": "airport hospital hotel library other restaurant sportsfacility theater",
    "event": "attack/battle/war/militaryconflict disaster election other protest sportsevent",
    "location": "GPE bodiesofwater island mountain other park road/railway/highway/transit",
    "organization": "company education government/governmentagency media/newspaper other politicalparty religion "
    "showorganization sportsleague sportsteam",
    "other": "astronomything award biologything chemicalthing currency disease educationaldegree god language law livingthing "
    "medical",
    "person": "actor artist/author athlete director other politician scholar soldier",
    "product": "airplane car food game other ship software train weapon",
}
FINE = ("O", *(f"{coarse}-{fine}" for coarse, names in FINE_BY_COARSE.items() for fine in names.split()))

# Works, places and people that everybody knows, so that a pretrained model has a chance with those it has not been shown.
ENTITIES = {
    "art-film": "Casablanca | Metropolis | Vertigo | Jaws | The Third Man | City Lights | Rear Window | Solaris",
    "art-music": "Bolero | The Magic Flute | Yesterday | The Four Seasons | La Traviata | Rhapsody in Blue | Imagine",
    "art-painting": "Guernica | The Night Watch | Mona Lisa | The Starry Night | The Scream | Girl with a Pearl Earring",
    "art-writtenart": "Hamlet | War and Peace | Don Quixote | Faust | Moby Dick | Candide | Emma | The Odyssey",
    "building-airport": "Heathrow | Schiphol | Changi Airport | O'Hare | Fiumicino | Narita | Gatwick",
    "building-hospital": "Charité | Guy 's Hospital | Bellevue Hospital | Mayo Clinic | Addenbrooke 's Hospital",
    "building-library": "Bodleian Library | British Library | Library of Alexandria | Boston Public Library",
    "building-sportsfacility": "Wembley | Camp Nou | Maracanã | Old Trafford | Yankee Stadium | San Siro",
    "building-theater": "La Scala | Bolshoi Theatre | Globe Theatre | Palais Garnier | Old Vic",
    "event-attack/battle/war/militaryconflict": "Battle of Hastings | Crimean War | Battle of Trafalgar | Trojan War | Boer War",
    "event-disaster": "Great Fire of London | Lisbon earthquake | Johnstown Flood | Great Smog",
    "event-sportsevent": "World Cup | Tour de France | Super Bowl | Olympic Games | Davis Cup | Six Nations",
    "location-GPE": "Paris | Kenya | Norway | Osaka | Lima | Vienna | Canada | Glasgow | Morocco | Chicago | Portugal | Hanoi",
    "location-bodiesofwater": "Danube | Lake Victoria | Baltic Sea | Nile | Loch Ness | Amazon | Rhine | Lake Geneva",
    "location-island": "Crete | Iceland | Java | Corsica | Madagascar | Isle of Man | Sicily",
    "location-mountain": "Mount Fuji | Ben Nevis | Matterhorn | K2 | Mont Blanc | Mount Etna | Kilimanjaro",
    "organization-company": "Siemens | Toyota | Nokia | Fiat | Unilever | Sony | Volvo | Nestlé | Boeing",
    "organization-education": "Oxford University | Sorbonne | Yale | Heidelberg University | Eton College | Uppsala University",
    "organization-media/newspaper": "The Times | Le Monde | BBC | Die Zeit | Reuters | El País | The Guardian",
    "organization-sportsteam": "Real Madrid | Ajax | Boston Red Sox | Juventus | Celtic | Bayern Munich",
    "other-astronomything": "Saturn | Halley 's Comet | Andromeda | Sirius | Io | Milky Way",
    "other-award": "Nobel Prize | Booker Prize | Pulitzer Prize | Fields Medal | Turing Award",
    "other-disease": "measles | malaria | scurvy | tuberculosis | influenza | cholera",
    "other-language": "Latin | Swahili | Basque | Welsh | Mandarin | Quechua | Finnish",
    "person-actor": "Greta Garbo | Charlie Chaplin | Audrey Hepburn | Buster Keaton | Marlene Dietrich | Cary Grant",
    "person-artist/author": "Jane Austen | Mozart | Frida Kahlo | Dante | Rembrandt | Virginia Woolf | Beethoven | Tolstoy",
    "person-athlete": "Jesse Owens | Pelé | Emil Zátopek | Billie Jean King | Muhammad Ali | Nadia Comăneci",
    "person-politician": "Churchill | Nelson Mandela | Golda Meir | Bismarck | Abraham Lincoln | Willy Brandt",
    "person-scholar": "Marie Curie | Darwin | Emmy Noether | Isaac Newton | Ada Lovelace | Aristotle | Alan Turing",
    "product-airplane": "Concorde | Boeing 747 | Spitfire | Airbus A380 | Cessna 172",
    "product-food": "Parmesan | Guinness | Toblerone | Camembert | Nutella",
    "product-ship": "Titanic | Bounty | Cutty Sark | Queen Mary | Mayflower",
    "product-software": "Linux | Photoshop | Excel | Firefox | LaTeX | Windows 95",
}
SENTENCES = """
{person-actor} never saw {art-film} in a cinema .
Last year {organization-company} opened an office in {location-GPE} .
The critics of {organization-media/newspaper} compared {art-writtenart} with {art-film} .
{person-scholar} studied at {organization-education} before moving to {location-GPE} .
{organization-sportsteam} played at {building-sportsfacility} and won by two goals .
The storm over the {location-bodiesofwater} delayed all flights from {building-airport} .
Half of the crew of the {product-ship} had {other-disease} when they reached {location-island} .
{person-politician} spoke {other-language} and read {art-writtenart} every summer .
{person-athlete} won twice at the {event-sportsevent} in {location-GPE} .
At {building-theater} they gave {art-music} by {person-artist/author} .
The {event-disaster} is described in a letter kept at the {building-library} .
She climbed {location-mountain} and {location-mountain} within a week .
{person-artist/author} painted a copy of {art-painting} in {location-GPE} .
A telescope on {location-island} showed {other-astronomything} more clearly than before .
The {product-airplane} flew from {building-airport} to {location-GPE} in two hours .
Doctors at {building-hospital} treated {other-disease} with bread and {product-food} .
The {other-award} went to {person-scholar} of {organization-education} .
{product-software} was translated into {other-language} by volunteers from {location-GPE} .
After the {event-attack/battle/war/militaryconflict} , {person-politician} retired to {location-island} .
{organization-company} sells {product-food} in {location-GPE} and {location-GPE} .
{person-actor} and {person-athlete} met on board the {product-ship} .
{organization-media/newspaper} reported that {product-software} would run on every desk at {organization-company} .
Nobody in the hall had heard {art-music} or seen {art-painting} .
The road along the {location-bodiesofwater} leads to {building-theater} and the {building-library} .
It rained all day , and the meeting was put off .
The committee has not said when it will decide .
""".strip().split("\n")


def few_nerd(draw: random.Random) -> dict[str, Any]:
    """One sentence; tags are places in COARSE and FINE."""
    tokens, coarse, fine = [], [], []
    for piece in re.split(r"(\{[^}]+\})| ", draw.choice(SENTENCES)):
        if not piece:
            continue
        label = piece[1:-1] if piece.startswith("{") else "O"
        words = draw.choice(ENTITIES[label].split(" | ")).split() if label != "O" else [piece]
        tokens += words
        coarse += [COARSE.index(label.partition("-")[0])] * len(words)
        fine += [FINE.index(label)] * len(words)
    return {"tokens": tokens, "ner_tags": coarse, "fine_ner_tags": fine}
