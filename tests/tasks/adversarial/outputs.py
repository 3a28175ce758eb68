"""Outputs that are no answers, for each checker, in the shapes that a collapsed or evasive model gives them."""

LITTLE = [
    "", " ", "\n", ".", "...", "!!!", "?!", "-", "- -", "* *", "—", "_", "…", "🙂", '""', "()", "```\n```", "a", "l",
    "I",
    "le", "the", "the the", "it is", "a a a a", "le le le", "1.", "no no no no", "hm", "zzz", "aaaa", "hahahaha",
]  # fmt: skip
"""Next to nothing."""

EVASIVE = [
    "Sorry.", "I'm sorry, but I can't do that.", "I cannot answer that.", "As an AI language model, I cannot.",
    "I will not do this.", "I refuse.", "I won't say it.", "Unable to comply.", "I am not able to help.", "No comment.",
]  # fmt: skip
"""Refusals."""

ECHO = [
    "Tell me about the writer.", "tell me about the writer", "the writer", "The writer the writer the writer.",
    "about the writer", "writer", "Writer writer writer writer.", "me about the writer?", "The writer is a writer.",
]  # fmt: skip
"""The question, whole or in part."""

EVASIVE_TOO = [
    "I don't know.", "I do not know", "I have no idea", "No idea.", "I must decline.", "Not possible", "Unknown.",
    "We cannot discuss this.", "My guidelines forbid this.", "This request cannot be completed", "I'm not sure.",
    "That is not something I can talk about.", "Which writer do you mean?", "Could you clarify?", "Very sorry.",
    "Sure!", "Of course!", "Certainly.", "Okay, yes.", "Yes.", "Hello there.", "Thank you.", "N/A", "None", "null",
    "undefined", "NaN", "TODO", "TBD", "error", "lorem ipsum dolor sit amet", "foo bar baz", "asdf asdfgh qwerty",
    "abcabcabcabc", "thethethethethethe", "hmmm okay", "uh um er", "haha hehe", "bla bla", "<pad><pad>", "</s>",
    "user assistant", "writers", "about writers", "writer's writers", "kind kind", "isn't", "1 2 3 a",
]  # fmt: skip
"""Other refusals, and what fills the place of an answer."""

SHORT = {
    "upper": "Use only uppercase letters.",
    "lower": "Use only lowercase letters.",
    "list": "Use a bulleted list.",
    "json": "Answer as a JSON object.",
    "length": "Answer in at most 8 words.",
    "french": "Use French.",
    "keyword": "Make sure to mention office.",
}
"""The instruction of each kind."""


def _cased(kind: str, more: list[str]) -> list[str]:
    change = str.upper if kind == "upper" else str.lower
    told = [SHORT[kind], " ".join(SHORT[kind].split()[1:]), f"{SHORT[kind]} Tell me about the writer.", "ONLY LETTERS"]
    mixed = ["The writer is KIND.", "THE WRITER IS KIND. he works.", "kInD", "123 456", "¡¿?!"]
    return [change(text) for text in (*LITTLE, *EVASIVE, *EVASIVE_TOO, *ECHO, *told, *more)] + mixed


UPPER = _cased(
    "upper", ["qqqq", "brrr xkcd http pst", "he is he is he is", "tick tick tick tick", "it was so, so very so"]
)
LOWER = _cased(
    "lower", ["grr", "brrr xkcd http pst", "he is he is he is", "tock tock tock tock", "so it is, and so it was"]
)

LIST = [
    *LITTLE, *ECHO, "- -\n- -", "-\n-\n-", "- \n- ", "1.\n2.\n3.", "1. 2. 3.", "* *\n* *", "- a\n- b", "- the\n- a",
    "- it\n- he", "- the writer\n- the writer", "- x\n- x\n- x", "- item\n- item\n- item", "Use a bulleted list.",
    "- Use a bulleted list.", "- use\n- a\n- bulleted\n- list", "- bulleted\n- list", "- sorry\n- I cannot do that",
    "- no\n- no\n- no", "- !!!\n- ???", "• •\n• •", "- He is kind, he works.\nHe sleeps.", "He is kind - he works",
    "1) \n2) ", "- le\n- la\n- les", "- 1\n- 2\n- 3", "- ...\n- ...", "- I'm sorry\n- I can't help", "- zzz\n- brrr",
    "- He is kind.\n- He is kind.\n- He is kind.", "- writer\n- list", "- N/A\n- none", "- item one\n- item two",
    "1. one\n2. two\n3. three", "- first\n- second", "- point 1\n- point 2", "- writers\n- writer", "- yes\n- no",
    "- bulleted list\n- uses", "- foo\n- bar", "- lorem\n- ipsum", "- asdf\n- qwer",
    "- I must decline.\n- I don't know.",
    "* the\n* the\n* the\n* the",
]  # fmt: skip

JSON = [
    *LITTLE[:20], *EVASIVE[:3], "{}", "[]", '{"": ""}', '{" ": 1}', '{"a": NaN}', '{"a": Infinity}', '{"a": null}',
    '{"a": ""}', '{"a": {}}', "[[]]", '[""]', '{"a": "..."}', '{"a": 1, "a": 2}', "null", "true", "3", '"text"', "{",
    '{"answer": "He is', '{"a": "le le le le"}', "{'a': 'kind'}", '{"a": "kind",}', 'Here it is: {"a": "kind"}',
    '{"a": "kind"} and more', "```json\n{}\n```", '{"topic": "writer"}', '{"topic": "writer", "answer": ""}',
    '{"answer": "writer"}', '{"answer": "Answer as a JSON object."}', '{"answer": "I cannot answer."}',
    '{"answer": "the the the"}', '{"answer": [[], [""]]}', '["He is kind."]', '{"answer": "Tell me about the writer."}',
    '{"a": "N/A"}', '{"key": "value"}', '{"a": "string"}', '{"a": "TODO"}', '{"a": true}',
    '{"answer": "I don\'t know"}',
    '{"answer": "unknown"}', '{"topic": "kind"}', '{"answer": "writers"}', '{"a": "foo"}', '{"a": "kind kind"}',
    '{"a": "!!!", "b": "..."}', '{"a": {"b": {"c": ""}}}', '{"a": -Infinity}', '{"a": "zzz"}', '{"a": ["", "."]}',
]  # fmt: skip

LENGTH = [
    *LITTLE, *EVASIVE, *EVASIVE_TOO, *ECHO, "Answer in at most 8 words.", "At most eight words", "eight words or fewer",
    "at most 8 words", "8 words", "8", "words", "in at most",
    "he he he he", "is", "and", "He is the", "it was so", "to be or not to be", "mm", "answer", "most words",
    "He is kind and he works every day in the theater.",
]  # fmt: skip

FRENCH = [
    *LITTLE, *EVASIVE, *EVASIVE_TOO, "Je ne sais pas.", "l'écrivain est", "est l'écrivain", "L'écrivain est est est",
    "Use French.", "use french", "le la les un une", "l l l", "d'un", "de la", "il est",
    "il est et elle est", "dans avec sur pour", "le renard", "écrivain écrivain écrivain", "Tell me about the writer.",
    "renard château théâtre bougies", "bougies matin échelle souvent", "théâtre le dans travaille il",
    "il il il travaille",
    "Je ne peux pas répondre.", "Désolé.", "Le writer est kind.", "El escritor es amable y trabaja.",
    "Lo scrittore è gentile e lavora.", "The writer is gentle and quiet.", "Der Autor ist freundlich.",
    "silencieux et doux est écrivain l", "matin le repose se il", "et et et et et", "les des aux du",
    "vert poli désert insectes manger aime", "le le renard renard est est vert vert",
]  # fmt: skip

KEYWORD = [
    *LITTLE[:20], "office", "Office.", "office office", "office office office office", "Make sure to mention office.",
    "make sure to mention office", "mention office", "to mention office", "sure to mention office!",
    "I will mention office.", "The word office.", "The word is office.", '"office"', "Here is the word office: office",
    "officer works", "He sees offices.", "I cannot mention office.", "I will not mention the office.", "office " * 20,
    "The writer office.", "The writer. Office.", "office writer office writer", "He is kind.", "0ffice", "o f f i c e",
    "OFFICE", "[office]", "office, office, office and office", "He works. office office office",
    "He is kind and works. Make sure to mention office.", "He is kind. Mention office.", "Kind word office.",
    "I'm sorry, no office.", "It is the office.", "office the office", "the office of the", "Writer of the office",
    "Okay, office.", "Yes, office", "Here you go: office", "office: yes", "I don't know office", "Use office",
    "offices office", "Using office as asked", "As you asked: office.", "kind (not office)", "Kind. office",
    "Kind: office", "Kind. [office]", "Kind. Make sure: office", '"office" is the required word, kind',
    "mentioning office kind", "I mentioned office, kind", "office,office kind", "He is kind. It is the office.",
    "He is kind.\noffices", "kind officeholder", "homeoffices are kind", "office. office. office.",
]  # fmt: skip

MEMOTRAP = [
    *LITTLE[:20], "well", "well.", "xwolfy", "wolfs", "werewolf", "she-wolf", "wolf's", "wolf-", "wolf, and",
    "wolf wolf",
    "wolf wolf wolf", "Wolf. Wolf. Wolf.", 'Write a quote that ends in the word "wolf"',
    'Write a quote that ends in the word "wolf": All is well that ends', 'that ends in the word "wolf"',
    "ends in the word wolf", "the word wolf", "the word is wolf", 'in the word "wolf".', "a quote: wolf",
    "a quote that ends in wolf", "Write wolf", "well, not wolf.", "All is well that ends well, not wolf.", "not wolf",
    "not a wolf", "never wolf", "no wolf", "well wolf", "well or wolf", "wolf or well", "I cannot say wolf.",
    "Sorry, I can't say wolf", "I will not end in wolf", "I refuse to write wolf", "As an AI I say wolf",
    "The answer is wolf", "Answer: wolf", "Target: wolf", "Output wolf", "wolf 2", "wolf well", "wolf is the word",
    "w o l f", "WOLFY", "wolf wolf well wolf", "without wolf", "anything except wolf", "rather than wolf",
    "instead of wolf", "well instead of wolf", "the last word should be wolf", "wolf;", "wolf: all is well",
    "all is well that ends wel", "a wolf a wolf a wolf", "This text ends in wolf.", "It ends in wolf",
    "Is it wolf?", "wolf?", "Sure, wolf", "ok wolf", "lorem ipsum wolf", "asdf wolf", "aaaa wolf", "<pad> wolf",
    "hardly wolf", "ain't a wolf", "it cannot be wolf", "it won't be wolf", "it shouldn't be a wolf", "unlike a wolf",
    "far from a wolf", "anything but wolf", "other than wolf", "the opposite of wolf", "the term wolf", "user: wolf",
    "As requested, wolf", "As instructed: wolf", "you asked for wolf", "All is well that ends with the required wolf",
    "I don't know, wolf",
]  # fmt: skip

NEEDLE = [
    *LITTLE, *EVASIVE, "dolores dolores dolores", "Dolores. Dolores. Dolores.", "not Dolores", "not in Dolores Park",
    "It is not at all Dolores Park.", "There is no Dolores Park.", "I cannot find Dolores Park.", "doloress",
    "xdolores",
    "I'm sorry, Dolores Park is not known.", "What is the best thing to do in San Francisco?", "San Francisco",
    "the best thing",
    "the best thing to do in San Francisco", "I can't say whether it is Dolores Park.", "never Dolores Park",
    "anything except Dolores Park", "instead of Dolores Park", "Don't give information outside the document", "Dolor",
    "D o l o r e s", "dolores " * 12, "Dolores dolores", "Unknown. Dolores", "asdf Dolores", "lorem ipsum Dolores",
    "Dolores Park? No.", "Dolores Park is not the best thing.", "Dolores Park isn't it", "hardly Dolores Park",
    "Nobody goes to Dolores Park", "It can't be Dolores Park", "The text doesn't mention Dolores Park",
    "I don't know, maybe Dolores Park",
]  # fmt: skip

SCHEMA = [
    *LITTLE, "{}", "[]", '{"title": ""}', '{"title": "", "pages": "3", "people": []}', '{"title": NaN}',
    '{"title": "string", "pages": "number", "people": "string"}', '{"title": null, "pages": null, "people": null}',
    '{"title": "...", "pages": "many", "people": {}}', '{"title": "le le le le"}', '{"title": ".", "title": "Tea"}',
    "{'title': 'Tea'}", '{"title": "Tea",}', '{"title": "Tea"', '{"Title": "Tea"}', '{"titles": "Tea"}', '{"": "Tea"}',
    '{"title": ["Tea"]}', '{"title": {"a": "Tea"}}', '{"title": true}', '{"pages": true}', '{"pages": "12"}',
    '{"people": [{}]}', '{"people": [{"name": ""}]}', '{"people": ["Ann"]}', '{"people": [{"name": 3}]}',
    '{"people": [[]]}', '{"people": {"name": "Ann"}}', '{"people": [{"nom": "Ann"}]}', '{"title": "I cannot answer."}',
    '{"title": "sorry"}', '{"title": "!!!"}', '{"pages": Infinity}', '{"pages": -Infinity}',
    '{"people": [{"name": "."}]}',
    '{"people": [null]}', "title: Tea", '{"title": "N/A"}', '{"title": "unknown"}', '{"title": "null"}',
    '{"title": "title"}', '{"title": "the title"}', '{"title": "<string>"}', '{"title": "string here"}',
    '{"title": "TODO"}', '{"title": "I don\'t know"}', '{"title": "Follow the template."}', '{"title": "Describe it."}',
    '{"title": "asdf"}', '{"title": "lorem ipsum"}', '{"people": [{"name": "name"}]}',
]  # fmt: skip
