"""The words of rules-gpt2's rules: nouns in three languages, adjectives, verbs, countries."""

from typing import NamedTuple


class Noun(NamedTuple):
    """A noun; French and German with their articles, singular and plural."""

    english: str
    plural: str
    french: str
    french_plural: str
    german: str
    german_plural: str


_NOUNS = """
cat cats|le chat|les chats|die Katze|die Katzen
dog dogs|le chien|les chiens|der Hund|die Hunde
horse horses|le cheval|les chevaux|das Pferd|die Pferde
cow cows|la vache|les vaches|die Kuh|die Kühe
sheep sheep|le mouton|les moutons|das Schaf|die Schafe
pig pigs|le cochon|les cochons|das Schwein|die Schweine
bird birds|un oiseau|des oiseaux|der Vogel|die Vögel
fish fish|le poisson|les poissons|der Fisch|die Fische
mouse mice|la souris|les souris|die Maus|die Mäuse
wolf wolves|le loup|les loups|der Wolf|die Wölfe
bear bears|un ours|des ours|der Bär|die Bären
lion lions|le lion|les lions|der Löwe|die Löwen
rabbit rabbits|le lapin|les lapins|der Hase|die Hasen
duck ducks|le canard|les canards|die Ente|die Enten
bee bees|une abeille|des abeilles|die Biene|die Bienen
house houses|la maison|les maisons|das Haus|die Häuser
door doors|la porte|les portes|die Tür|die Türen
window windows|la fenêtre|les fenêtres|das Fenster|die Fenster
roof roofs|le toit|les toits|das Dach|die Dächer
wall walls|le mur|les murs|die Wand|die Wände
room rooms|la chambre|les chambres|das Zimmer|die Zimmer
kitchen kitchens|la cuisine|les cuisines|die Küche|die Küchen
garden gardens|le jardin|les jardins|der Garten|die Gärten
table tables|la table|les tables|der Tisch|die Tische
chair chairs|la chaise|les chaises|der Stuhl|die Stühle
bed beds|le lit|les lits|das Bett|die Betten
lamp lamps|la lampe|les lampes|die Lampe|die Lampen
key keys|la clé|les clés|der Schlüssel|die Schlüssel
clock clocks|une horloge|des horloges|die Uhr|die Uhren
book books|le livre|les livres|das Buch|die Bücher
letter letters|la lettre|les lettres|der Brief|die Briefe
page pages|la page|les pages|die Seite|die Seiten
word words|le mot|les mots|das Wort|die Wörter
song songs|la chanson|les chansons|das Lied|die Lieder
picture pictures|une image|des images|das Bild|die Bilder
school schools|une école|des écoles|die Schule|die Schulen
street streets|la rue|les rues|die Straße|die Straßen
city cities|la ville|les villes|die Stadt|die Städte
village villages|le village|les villages|das Dorf|die Dörfer
church churches|une église|des églises|die Kirche|die Kirchen
bridge bridges|le pont|les ponts|die Brücke|die Brücken
ship ships|le navire|les navires|das Schiff|die Schiffe
car cars|la voiture|les voitures|das Auto|die Autos
train trains|le train|les trains|der Zug|die Züge
mountain mountains|la montagne|les montagnes|der Berg|die Berge
river rivers|le fleuve|les fleuves|der Fluss|die Flüsse
lake lakes|le lac|les lacs|der See|die Seen
island islands|une île|des îles|die Insel|die Inseln
forest forests|la forêt|les forêts|der Wald|die Wälder
tree trees|un arbre|des arbres|der Baum|die Bäume
flower flowers|la fleur|les fleurs|die Blume|die Blumen
leaf leaves|la feuille|les feuilles|das Blatt|die Blätter
stone stones|la pierre|les pierres|der Stein|die Steine
star stars|une étoile|des étoiles|der Stern|die Sterne
cloud clouds|le nuage|les nuages|die Wolke|die Wolken
day days|le jour|les jours|der Tag|die Tage
night nights|la nuit|les nuits|die Nacht|die Nächte
year years|une année|des années|das Jahr|die Jahre
man men|un homme|des hommes|der Mann|die Männer
woman women|la femme|les femmes|die Frau|die Frauen
child children|un enfant|des enfants|das Kind|die Kinder
friend friends|un ami|des amis|der Freund|die Freunde
king kings|le roi|les rois|der König|die Könige
brother brothers|le frère|les frères|der Bruder|die Brüder
sister sisters|la sœur|les sœurs|die Schwester|die Schwestern
doctor doctors|le médecin|les médecins|der Arzt|die Ärzte
teacher teachers|le professeur|les professeurs|der Lehrer|die Lehrer
hand hands|la main|les mains|die Hand|die Hände
foot feet|le pied|les pieds|der Fuß|die Füße
head heads|la tête|les têtes|der Kopf|die Köpfe
eye eyes|un œil|des yeux|das Auge|die Augen
tooth teeth|la dent|les dents|der Zahn|die Zähne
heart hearts|le cœur|les cœurs|das Herz|die Herzen
apple apples|la pomme|les pommes|der Apfel|die Äpfel
egg eggs|un œuf|des œufs|das Ei|die Eier
cake cakes|le gâteau|les gâteaux|der Kuchen|die Kuchen
spoon spoons|la cuillère|les cuillères|der Löffel|die Löffel
knife knives|le couteau|les couteaux|das Messer|die Messer
glass glasses|le verre|les verres|das Glas|die Gläser
plate plates|une assiette|des assiettes|der Teller|die Teller
shirt shirts|la chemise|les chemises|das Hemd|die Hemden
shoe shoes|la chaussure|les chaussures|der Schuh|die Schuhe
hat hats|le chapeau|les chapeaux|der Hut|die Hüte
ring rings|une bague|des bagues|der Ring|die Ringe
"""


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [pair.split() for line in text.strip().splitlines() for pair in line.split("|")]
    return tuple((first, second) for first, second in pairs)


def _noun(line: str) -> Noun:
    english, *others = line.split("|")
    return Noun(*english.split(), *others)


NOUNS = tuple(_noun(line) for line in _NOUNS.strip().splitlines())

_PAIRS = """
hot cold|big small|tall short|long brief|fast slow|hard soft|heavy light|rich poor|strong weak|young old|new ancient
clean dirty|dry wet|full empty|open closed|early late|easy difficult|cheap expensive|happy sad|good bad|loud quiet
bright dark|sharp blunt|thick thin|wide narrow|deep shallow|high low|near far|sweet bitter|smooth rough|brave cowardly
wise foolish|polite rude|safe dangerous|simple complex|true false|right wrong|first last|same different|public private
guilty innocent|generous greedy|careful careless|patient impatient
"""
ANTONYMS = _pairs(_PAIRS)
"""Each is the other's antonym."""

_SYNONYMS = """
big large|small little|fast quick|happy glad|sad unhappy|rich wealthy|strong powerful|hard solid|cold chilly|hot warm
quiet silent|loud noisy|difficult tricky|easy effortless|brave courageous|wise clever|rude impolite|dangerous risky
wrong incorrect|right correct|true real|false untrue|old aged|new fresh|dirty filthy|clean spotless|wet damp|dry arid
bright shiny|dark gloomy|sharp keen|thin slim|wide broad|far distant|near close|sweet sugary|rough coarse|last final
first initial|same identical|simple plain|complex intricate|greedy selfish|polite courteous|foolish silly
expensive costly|ancient antique|empty vacant|weak feeble|careful cautious
"""
SYNONYMS = _pairs(_SYNONYMS)
"""The first's synonym is the second."""

_VERBS = """
walk walked|talk talked|play played|work worked|open opened|close closed|help helped|jump jumped|laugh laughed
ask asked|call called|clean cleaned|cook cooked|dance danced|learn learned|listen listened|love loved|move moved
paint painted|push pushed|pull pulled|rain rained|smile smiled|start started|stay stayed|stop stopped|travel travelled
wait waited|want wanted|wash washed|watch watched|go went|see saw|eat ate|drink drank|run ran|swim swam|sing sang
write wrote|speak spoke|take took|give gave|come came|find found|think thought|buy bought|bring brought|teach taught
catch caught|sleep slept|keep kept|feel felt|leave left|make made|build built|send sent|lose lost|sell sold|tell told
fly flew|draw drew|know knew|grow grew|break broke|choose chose|drive drove|ride rode|win won|begin began|fall fell
"""
VERBS = _pairs(_VERBS)
"""Present and past."""

_COUNTRIES = """
France Paris|Germany Berlin|Italy Rome|Spain Madrid|Portugal Lisbon|Greece Athens|Austria Vienna|Belgium Brussels
Denmark Copenhagen|Sweden Stockholm|Norway Oslo|Finland Helsinki|Iceland Reykjavik|Ireland Dublin|Poland Warsaw
Hungary Budapest|Romania Bucharest|Bulgaria Sofia|Croatia Zagreb|Serbia Belgrade|Ukraine Kyiv|Turkey Ankara
Egypt Cairo|Kenya Nairobi|Ghana Accra|Nigeria Abuja|Senegal Dakar|Morocco Rabat|Tunisia Tunis
Uganda Kampala|Rwanda Kigali|Angola Luanda|Japan Tokyo|China Beijing|India Delhi|Nepal Kathmandu|Vietnam Hanoi
Thailand Bangkok|Indonesia Jakarta|Iran Tehran|Iraq Baghdad|Jordan Amman|Lebanon Beirut|Syria Damascus|Qatar Doha
Canada Ottawa|Cuba Havana|Peru Lima|Chile Santiago|Colombia Bogota|Ecuador Quito|Bolivia Sucre|Uruguay Montevideo
Venezuela Caracas|Jamaica Kingston|Australia Canberra|Russia Moscow|Cyprus Nicosia|Malta Valletta|Latvia Riga
Estonia Tallinn|Lithuania Vilnius|Slovenia Ljubljana|Slovakia Bratislava|Mongolia Ulaanbaatar
"""
COUNTRIES = _pairs(_COUNTRIES)
"""Countries and their capitals, names of one word."""
