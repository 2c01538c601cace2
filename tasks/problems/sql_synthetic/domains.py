"""What the generated databases are about: twenty-four small worlds, and the words that fill their cells.

A world is a few lines, one for each kind of thing::

    one thing/many things: column; column; ...

and a column is ``phrase kind arguments``: ``!`` after the kind marks the column by which people call such a
thing (its values are unique), ``?`` one that may be NULL, ``(most ...|least ...)`` the words for its two ends
and ``{in %}`` how a thing of that value is spoken of. ``phrase > {placed by}`` refers to another thing.
"""

from __future__ import annotations

DOMAINS = """
@shop
customer/customers: name person!; city city {living in %}; joining date date 2016..2023; \
email email?
product/products: name goods!; category of garden,kitchen,office,toys,sports {in the % category}; \
price money 3..240 (most expensive|cheapest); stock count 0..90; supplier company?
order/orders: customer > {placed by}; product > {for}; quantity count 1..9; order date date 2021..2023; \
status of open,shipped,returned,paid

@library
author/authors: name person!; country country {coming from %}; \
birth year year 1920..1995 (youngest|oldest)
book/books: title title!; author > {written by}; pages count 60..900 (longest|shortest); \
publication year year 1960..2023 (newest|oldest); genre of novel,history,poetry,science,travel
loan/loans: book > {of}; borrower person; loan date date 2022..2023; return date date? 2023..2024; \
fine money 0..30

@school
teacher/teachers: name person!; subject of Biology,History,Music,Physics,Art {teaching %}; \
salary money 2100..5200 (best paid|worst paid); hire date date 2001..2022; room code?
course/courses: title title!; teacher > {taught by}; credits int 2..9; weekly hours count 1..8
enrolment/enrolments: course > {in}; student person; grade int 1..20; term of spring,summer,autumn,winter

@hospital
ward/wards: name title!; floor int 0..9 (highest|lowest); beds count 6..40 (largest|smallest)
doctor/doctors: name person!; ward > {working in}; \
specialty of cardiology,surgery,neurology,oncology; phone phone?; years of service count 0..35
visit/visits: doctor > {with}; patient person; visit date date 2020..2023; cost money 20..900; \
diagnosis of asthma,fracture,influenza,migraine?

@airline
airport/airports: name city!; country country {in %}; altitude int 1..2400 (highest|lowest); code code
flight/flights: airport > {leaving from}; number code!; distance count 150..9000 (longest|shortest); \
departure date date 2022..2023; aircraft of A320,B737,E190,A350
ticket/tickets: flight > {for}; passenger person; fare money 40..1300 (most expensive|cheapest); \
seat code?; travel class of economy,business,first

@restaurant
chef/chefs: name person!; nationality country; experience count 1..40; rating real 1..5
dish/dishes: name goods!; chef > {cooked by}; course of starter,main,dessert,drink; \
price money 4..60 (most expensive|cheapest); calories count 80..1400
reservation/reservations: dish > {for}; guest person; party size count 1..12; \
reserved on date 2022..2023; note of birthday,window seat,vegetarian?

@football
team/teams: name company!; city city {from %}; founding year year 1880..2010 (newest|oldest); \
budget count 2..300 (richest|poorest)
player/players: name person!; team > {playing for}; \
position of goalkeeper,defender,midfielder,forward; height int 165..203 (tallest|shortest); \
birth date date 1985..2005 (youngest|oldest); nickname title?
goal/goals: player > {scored by}; minute int 1..90; match date date 2021..2023; \
kind of header,penalty,shot,own goal

@museum
artist/artists: name person!; birth year year 1500..1960 (youngest|oldest); home country country
painting/paintings: title title!; artist > {painted by}; width int 20..400 (widest|narrowest); \
year year 1530..1990 (newest|oldest); technique of oil,watercolour,acrylic,ink; \
value count 5..900 (most valuable|least valuable)
exhibit/exhibits: painting > {of}; hall code; opening date date 2019..2023; visitors count 10..5000; \
sponsor company?

@bank
branch/branches: name title!; city city {in %}; opening year year 1950..2020 (newest|oldest); \
employees count 3..80
account/accounts: branch > {held at}; number code!; owner person; balance money 0..9000; \
type of savings,checking,business; closing date date? 2022..2023
transfer/transfers: account > {from}; amount money 5..4000 (largest|smallest); \
transfer date date 2021..2023; purpose of rent,salary,invoice,gift

@cinema
director/directors: name person!; birth country country; awards count 0..12
film/films: title title!; director > {directed by}; release year year 1960..2023 (newest|oldest); \
running time count 70..210 (longest|shortest); genre of drama,comedy,thriller,western; \
rating real 1..10 (best rated|worst rated)
screening/screenings: film > {of}; screening date date 2022..2023; hall int 1..12; \
tickets sold count 0..300; language of English,French,Spanish?

@university
department/departments: name title!; building code; budget count 100..990 (richest|poorest)
professor/professors: name person!; department > {of}; rank of assistant,associate,full; \
salary money 3000..9500 (best paid|worst paid); start date date 1990..2022; office code?
paper/papers: title title!; professor > {written by}; citations count 0..800 (most cited|least cited); \
year year 2000..2023 (newest|oldest)

@hotel
hotel/hotels: name title!; city city {in %}; stars int 1..5; opening year year 1900..2020 (newest|oldest)
room/rooms: hotel > {in}; number code!; kind of single,double,suite,family; \
nightly rate money 40..600 (most expensive|cheapest); beds count 1..4
booking/bookings: room > {of}; guest person; arrival date date 2022..2023; \
nights count 1..21 (longest|shortest); source of website,phone,agency?

@farm
field/fields: name title!; area real 1..60 (largest|smallest); soil of clay,sand,loam,peat
crop/crops: name goods!; field > {grown in}; sowing date date 2020..2023; yield count 10..900; \
buyer company?
harvest/harvests: crop > {of}; harvest date date 2021..2023; weight count 5..700 (heaviest|lightest); \
quality of low,medium,high

@music
band/bands: name title!; home city city {from %}; founding year year 1960..2018 (newest|oldest); \
genre of rock,jazz,folk,metal
album/albums: title title!; band > {by}; release year year 1965..2023 (newest|oldest); \
copies sold count 1..900; label company?
song/songs: title title!; album > {on}; length count 90..600 (longest|shortest); plays count 0..9000; \
mood of calm,sad,happy,angry

@garage
owner/owners: name person!; city city {living in %}; phone phone?
vehicle/vehicles: plate code!; owner > {belonging to}; make of Fiat,Honda,Skoda,Volvo,Ford; \
model year year 1995..2023 (newest|oldest); mileage count 1..300; colour of red,blue,black,white
repair/repairs: vehicle > {of}; repair date date 2020..2023; \
cost money 30..2500 (most expensive|cheapest); mechanic person?; part of brakes,clutch,battery,engine

@zoo
keeper/keepers: name person!; hire date date 2000..2022; wage money 1500..3600 (best paid|worst paid)
animal/animals: name goods!; keeper > {looked after by}; species of lion,zebra,otter,parrot,python; \
weight real 1..400 (heaviest|lightest); birth date date 2000..2022 (youngest|oldest); origin country?
feeding/feedings: animal > {of}; food of meat,fruit,fish,hay; amount count 1..30; \
feeding date date 2023..2023

@software
developer/developers: name person!; team of backend,frontend,mobile,data {in the % team}; \
start date date 2010..2023; salary money 2800..9000 (best paid|worst paid)
project/projects: name title!; developer > {led by}; language of Python,Rust,Java,Go; \
budget count 5..500; deadline date? 2023..2024
ticket/tickets: project > {of}; title title!; priority int 1..5; state of open,closed,blocked; \
estimate count 1..40 (longest|shortest)

@gym
trainer/trainers: name person!; discipline of yoga,boxing,swimming,pilates; \
hourly rate money 15..90 (most expensive|cheapest)
member/members: name person!; trainer > {coached by}; age int 16..80 (oldest|youngest); \
joining date date 2015..2023; plan of basic,plus,premium; referral person?
session/sessions: member > {of}; session date date 2022..2023; minutes count 15..120 (longest|shortest); \
calories count 50..900

@press
journalist/journalists: name person!; desk of politics,sports,culture,science {at the % desk}; \
city city {living in %}
article/articles: title title!; journalist > {written by}; words count 120..4000 (longest|shortest); \
publication date date 2021..2023; section of news,opinion,interview
comment/comments: article > {on}; reader person; likes count 0..500; posted on date 2021..2023; \
verdict of agree,disagree?

@logistics
warehouse/warehouses: name title!; city city {in %}; capacity count 200..9000 (largest|smallest)
truck/trucks: plate code!; warehouse > {based at}; driver person?; load limit count 2..40; \
purchase year year 2005..2023 (newest|oldest)
shipment/shipments: truck > {carried by}; destination city; weight real 1..39 (heaviest|lightest); \
shipping date date 2021..2023; state of planned,moving,delivered

@theatre
play/plays: title title!; author person; premiere year year 1890..2023 (newest|oldest); acts int 1..5; \
genre of comedy,tragedy,musical
performance/performances: play > {of}; performance date date 2021..2023; audience count 20..900; \
stage of main,studio,garden
role/roles: play > {in}; name goods!; actor person?; lines count 3..400; \
fee money 100..4000 (best paid|worst paid)

@astronomy
observatory/observatories: name title!; country country {in %}; altitude int 100..5200 (highest|lowest); \
founding year year 1800..2015 (newest|oldest)
telescope/telescopes: name goods!; observatory > {at}; diameter real 1..12 (largest|smallest); \
kind of optical,radio,infrared
observation/observations: telescope > {made with}; target title; observation date date 2020..2023; \
exposure count 10..3600 (longest|shortest); observer person?

@election
party/parties: name title!; founding year year 1900..2020 (newest|oldest); seats count 0..120; \
colour of red,blue,green,yellow
candidate/candidates: name person!; party > {of}; district city {from the district of %}; \
age int 25..80 (oldest|youngest); slogan title?
donation/donations: candidate > {to}; donor person; amount money 10..5000 (largest|smallest); \
donation date date 2021..2023

@railway
station/stations: name city!; platforms count 1..20; opening year year 1850..2015 (newest|oldest); \
zone int 1..6
train/trains: station > {starting from}; number code!; seats count 80..700; operator company?; \
kind of express,local,night
delay/delays: train > {of}; minutes count 1..180 (longest|shortest); delay date date 2022..2023; \
cause of signal,weather,staff,strike
"""
