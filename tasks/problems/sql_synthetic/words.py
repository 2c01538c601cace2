"""What stands in the cells of generated databases, and short forms of column names."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


FIRST = _words("""
Ada Aisha Amir Ana Ben Carla Chen Clara Dario Diego Elif Emma Erik Fatima Felix Grace Hana Hugo Ida Igor
Ines Ivan Jana Jonas Kai Karim Lea Leo Lin Lucia Maja Marco Maria Mei Milan Mina Nadia Nils Noah Nora
Olga Omar Oscar Paul Petra Priya Rosa Sam Sara Sofia Tara Theo Tim Vera Yuki Zoe
""")
LAST = _words("""
Adler Bauer Berg Blanc Brown Castro Chen Costa Cruz Dahl Diaz Egger Evans Fischer Fontana Garcia Gupta
Haas Hansen Holm Ito Jensen Kaya Keller Khan Klein Kovac Lang Lee Lopez Marin Mendes Meyer Mori Moreau
Nagy Novak Okafor Olsen Patel Petrov Reed Rossi Santos Sato Silva Stone Tanaka Vega Vogel Wagner Walker
Weber Wolf Young
""")
CITIES = _words("""
Antwerp Athens Basel Bergen Berlin Bologna Boston Bristol Cairo Cork Dakar Dublin Geneva Ghent Graz
Haifa Havana Kobe Krakow Kyoto Lagos Leeds Lima Linz Lisbon London Lyon Madrid Malaga Milan Munich
Nairobi Nantes Oslo Paris Porto Prague Quito Riga Rome Seoul Seville Sofia Split Sydney Tallinn Tokyo
Toronto Turin Vienna
""")
COUNTRIES = _words("""
Austria Belgium Brazil Canada Chile China Denmark Egypt Finland France Ghana Greece India Ireland Italy
Japan Kenya Mexico Norway Peru Poland Portugal Spain Sweden Turkey
""")
ADJECTIVES = _words("""
Amber Ancient Blue Bright Broken Calm Crystal Distant Early Eastern Empty Endless Final First Frozen
Gentle Golden Grand Green Hidden Hollow Iron Last Little Lost Lucky Modern Northern Old Open Quiet Rapid
Red Royal Second Secret Silent Silver Simple Small Southern Stone Summer Third Upper Western White Wild
Winter Young
""")
NOUNS = _words("""
Anchor Arch Bell Bridge Castle Circle Cloud Coast Corner Crown Dawn Desert Door Dream Field Fire Forest
Garden Gate Harbour Hill House Island Journey Lake Lantern Light Mirror Moon Morning Mountain Night
Ocean Orchard Palace Park River Road Rose Shadow Shore Sky Song Square Star Storm Street Tower Tree
Valley Wall Water Wheel Wind Window
""")
GOODS = _words("""
Acorn Almond Apollo Aspen Basil Bamboo Banjo Birch Bruno Cedar Cinder Clover Comet Coral Cosmo Daisy
Delta Ember Falcon Fern Fiona Flora Ginger Hazel Indigo Iris Ivory Jasper Juno Kiwi Lemon Lily Lotus
Luna Maple Mango Marble Mint Nova Oak Olive Onyx Opal Orion Paprika Pearl Pepper Pine Plum Poppy Quartz
Raven Robin Ruby Saffron Sage Sequoia Sienna Sirius Spruce Tango Tulip Vega Violet Walnut Willow Zephyr
Zorro
""")
COMPANIES = [f"{word} {kind}" for word in GOODS for kind in ("Ltd", "Group", "United", "Partners")]

SHORT = {
    "number": "no",
    "quantity": "qty",
    "amount": "amt",
    "date": "dt",
    "department": "dept",
    "category": "cat",
    "customer": "cust",
    "price": "prc",
    "country": "ctry",
    "description": "descr",
    "publication": "pub",
    "position": "pos",
    "average": "avg",
    "weight": "wt",
    "height": "ht",
    "name": "nm",
    "account": "acct",
    "transfer": "trf",
    "employees": "emp",
    "professor": "prof",
    "nationality": "nat",
    "language": "lang",
    "warehouse": "whse",
    "vehicle": "veh",
    "repair": "rep",
    "year": "yr",
    "experience": "exp",
}
"""How those write who find names long."""
