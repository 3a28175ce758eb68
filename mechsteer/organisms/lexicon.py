"""A small English lexicon: about 700 everyday words by kind, from which the neutral sentences are made."""

LEXICON: dict[str, tuple[str, ...]] = {
    kind: tuple(words.split())
    for kind, words in {
        "animal": """
            fox wolf bear otter rabbit deer eagle owl sparrow crow heron frog turtle lizard snake spider beetle
            butterfly bee ant lion tiger elephant giraffe zebra monkey camel goat sheep donkey pony cow pig duck goose
            hen rooster swan whale dolphin seal shark salmon trout crab squid badger squirrel hedgehog mole""",
        "person": """
            baker teacher farmer sailor doctor nurse painter singer dancer soldier king queen prince princess merchant
            carpenter blacksmith tailor weaver potter hunter fisherman gardener cook waiter driver pilot engineer
            writer poet actor judge lawyer banker priest monk student child girl boy woman brother sister mother father
            uncle aunt cousin neighbor grandmother grandfather captain stranger traveler""",
        "object": """
            lantern basket bottle mirror ladder hammer bucket blanket candle ribbon guitar violin drum flute trumpet
            piano kettle spoon fork knife plate bowl cup pillow curtain carpet table chair bench shelf cabinet drawer
            wardrobe clock watch ring necklace bracelet crown helmet shield arrow rope wheel wagon bicycle boat raft
            anchor compass map letter envelope book notebook pencil brush paint canvas statue coin purse wallet
            umbrella coat scarf glove boot sandal hat jacket sweater button needle thread scissors broom shovel rake
            axe saw nail key lock gate fence brick stone marble pearl diamond feather shell""",
        "food": """
            bread butter cheese honey milk soup stew pie cake biscuit cookie pancake noodle rice bean pea carrot potato
            onion garlic tomato pepper cabbage lettuce spinach mushroom apple pear plum cherry peach grape lemon orange
            melon banana berry nut almond chestnut olive fig date salt sugar cinnamon ginger coffee tea juice cider
            wine""",
        "place": """
            forest meadow valley mountain hill river lake pond beach island desert canyon cave village town city castle
            palace temple church market harbor station airport library museum school hospital theater garden orchard
            vineyard farm barn stable mill bridge tower lighthouse tunnel road street square park kitchen bedroom attic
            cellar balcony courtyard office factory bakery tavern inn shop""",
        "adjective": """
            red blue green yellow purple brown white black silver golden small large tiny huge tall short long wide
            narrow heavy light soft hard smooth rough warm cool hot cold dry wet clean dirty bright dark quiet loud
            quick slow gentle fierce brave shy clever foolish kind cruel happy sad lonely proud humble honest lazy busy
            tired hungry thirsty rich poor young old ancient modern fresh rotten sweet bitter sour salty simple strange
            rare common famous secret empty full broken wooden iron leather woolen""",
        "adverb": """
            slowly quickly quietly loudly softly gently carefully proudly happily sadly bravely eagerly calmly together
            alone again today tomorrow yesterday often rarely always sometimes forever everywhere outside inside
            upstairs downstairs""",
        "weather": "rain snow wind storm fog sunshine thunder lightning frost hail",
        "time": "morning evening night afternoon winter summer spring autumn weekend holiday midnight noon",
        "material": "wood silk wool cotton clay glass paper steel copper bronze gold ivory velvet linen straw",
        "abstract": """
            freedom justice courage wisdom beauty peace music laughter friendship sorrow anger fear hope joy silence
            memory dream mystery adventure danger success failure truth honor glory kindness patience duty fortune
            destiny""",
        "did": """
            carried found bought sold painted repaired cleaned washed lost borrowed stole dropped lifted pushed pulled
            opened closed hid buried watched followed admired loved hated wanted needed remembered forgot described
            drew built broke fixed moved sent received collected""",
        "do": """
            carry find buy sell paint repair clean wash borrow steal drop lift push pull open close hide bury watch
            follow admire love hate want need remember forget describe draw build break fix move send receive
            collect""",
        "went": """
            walked ran danced sang slept waited worked played swam climbed traveled laughed cried smiled whispered
            shouted rested arrived departed wandered""",
    }.items()
}
"""Words by kind; `did` and `do` take an object, `went` does not."""

CONTENT_WORDS: tuple[str, ...] = tuple(
    sorted({word for kind, words in LEXICON.items() if kind not in ("did", "do", "went") for word in words})
)
"""Every word of the lexicon but the verbs: the words that an instruction may name."""
