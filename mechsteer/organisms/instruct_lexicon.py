"""The words of instruct-llama's little world, with their French; everything is masculine, so that agreement is simple.

Topics are animals and people; each gets facts drawn from the other tables. `KEYWORDS` are words that no sentence about
a topic contains, so that a keyword in an answer is there because it was asked for.
"""


def _pairs(text: str) -> dict[str, str]:
    """Read `english=french` entries, separated by commas."""
    return dict(entry.strip().split("=", 1) for entry in " ".join(text.split()).split(","))


ANIMALS = _pairs("""
    fox=le renard, wolf=le loup, bear=l'ours, rabbit=le lapin, deer=le cerf, eagle=l'aigle, owl=le hibou,
    sparrow=le moineau, raven=le corbeau, heron=le héron, lizard=le lézard, snake=le serpent, beetle=le scarabée,
    butterfly=le papillon, lion=le lion, tiger=le tigre, elephant=l'éléphant, zebra=le zèbre, monkey=le singe,
    camel=le chameau, sheep=le mouton, donkey=l'âne, pig=le cochon, duck=le canard, swan=le cygne,
    dolphin=le dauphin, seal=le phoque, shark=le requin, crab=le crabe, badger=le blaireau, squirrel=l'écureuil,
    hedgehog=le hérisson, horse=le cheval, cat=le chat, dog=le chien, rooster=le coq, lobster=le homard,
    salmon=le saumon, parrot=le perroquet, penguin=le manchot, beaver=le castor, kangaroo=le kangourou,
    panda=le panda, crocodile=le crocodile, octopus=le poulpe, pigeon=le pigeon, snail=l'escargot, falcon=le faucon""")
"""Animals; one that is called `it`."""

PEOPLE = _pairs("""
    baker=le boulanger, teacher=le professeur, farmer=le fermier, sailor=le marin, doctor=le docteur,
    painter=le peintre, singer=le chanteur, dancer=le danseur, soldier=le soldat, king=le roi,
    merchant=le marchand, carpenter=le charpentier, blacksmith=le forgeron, tailor=le tailleur,
    weaver=le tisserand, potter=le potier, hunter=le chasseur, fisherman=le pêcheur, gardener=le jardinier,
    cook=le cuisinier, waiter=le serveur, driver=le chauffeur, pilot=le pilote, engineer=l'ingénieur,
    writer=l'écrivain, poet=le poète, actor=l'acteur, judge=le juge, priest=le prêtre, monk=le moine,
    captain=le capitaine, student=l'étudiant""")
"""People; one that is called `he`."""

COLOURS = _pairs("""
    red=rouge, blue=bleu, green=vert, yellow=jaune, brown=brun, white=blanc, black=noir, grey=gris, orange=orange,
    purple=violet""")
CHARACTERS = _pairs("""
    clever=rusé, brave=courageux, shy=timide, gentle=doux, fierce=féroce, quick=rapide, slow=lent, kind=gentil,
    proud=fier, lazy=paresseux, busy=occupé, happy=heureux, lonely=solitaire, calm=calme, strong=fort, small=petit,
    tall=grand, curious=curieux, patient=patient, polite=poli, noisy=bruyant, quiet=silencieux, wise=sage,
    young=jeune""")
PLACES = _pairs("""
    forest=la forêt, meadow=le pré, valley=la vallée, mountains=les montagnes, river=la rivière, lake=le lac,
    desert=le désert, cave=la grotte, village=le village, city=la ville, castle=le château, temple=le temple,
    market=le marché, harbor=le port, garden=le jardin, orchard=le verger, fields=les champs, mill=le moulin,
    tower=la tour, library=la bibliothèque, theater=le théâtre, school=l'école, swamp=le marais, jungle=la jungle""")
FOODS = _pairs("""
    berries=des baies, grass=de l'herbe, fish=du poisson, insects=des insectes, seeds=des graines, honey=du miel,
    leaves=des feuilles, nuts=des noix, bread=du pain, apples=des pommes, roots=des racines, worms=des vers,
    cheese=du fromage, rice=du riz, carrots=des carottes, mushrooms=des champignons, eggs=des œufs, corn=du maïs,
    soup=de la soupe, flowers=des fleurs""")
SKILLS = _pairs("""
    swim=nager, climb=grimper, run=courir, jump=sauter, dig=creuser, hide=se cacher, sing=chanter, hunt=chasser,
    whistle=siffler, listen=écouter, sleep=dormir, wait=attendre, dance=danser, fight=combattre, walk=marcher,
    dive=plonger""")
TIMES = _pairs("""
    morning=le matin, evening=le soir, night=la nuit, afternoon=l'après-midi, winter=en hiver, summer=en été,
    spring=au printemps, autumn=en automne""")
TOOLS = _pairs("""
    hammer=un marteau, brush=un pinceau, rope=une corde, knife=un couteau, basket=un panier, bucket=un seau,
    lamp=une lampe, ladder=une échelle, needle=une aiguille, wheel=une roue, shovel=une pelle, map=une carte,
    pencil=un crayon, spoon=une cuillère, net=un filet, saw=une scie, bell=une cloche, mirror=un miroir,
    clock=une horloge, wagon=un chariot""")
PRODUCTS = _pairs("""
    bread=du pain, shoes=des chaussures, songs=des chansons, stories=des histoires, tables=des tables,
    cakes=des gâteaux, coats=des manteaux, pots=des pots, plans=des plans, jokes=des blagues, toys=des jouets,
    candles=des bougies, drawings=des dessins, boats=des bateaux, chairs=des chaises, speeches=des discours,
    books=des livres, tea=du thé, music=de la musique, noise=du bruit""")

KEYWORDS: tuple[str, ...] = tuple(
    """
    lantern bottle blanket candle ribbon guitar violin drum flute trumpet piano kettle fork plate bowl cup pillow
    curtain carpet bench shelf cabinet drawer watch ring necklace crown helmet shield arrow raft anchor compass
    envelope notebook statue coin purse wallet umbrella scarf glove boot sandal hat jacket sweater button thread broom
    rake axe nail lock gate fence brick marble pearl diamond feather shell pie cookie pancake potato onion garlic tomato
    pepper cabbage lettuce pear plum cherry peach lemon melon banana almond olive sugar cinnamon ginger coffee juice
    beach island canyon palace church station airport museum hospital vineyard barn stable bridge tunnel street kitchen
    bedroom attic cellar balcony office factory tavern shop rain snow storm fog thunder frost silk wool copper ivory
    freedom justice courage wisdom beauty friendship sorrow hope silence memory dream mystery adventure danger success
    truth honor fortune""".split()
)
"""Words that an instruction may ask for."""
