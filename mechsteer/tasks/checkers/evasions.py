"""What stands where an answer should stand: refusals, fillers, placeholders, and letters that are no word.

English, and French where the bundled tasks ask for it. All are lists of what models say; none is complete.
"""

import re

REFUSAL = re.compile(
    r"\b(?:"
    r"(?:i|we)(?: a|['’])(?:m|re) (?:so |very |really |truly )?"
    r"(?:sorry|afraid|unable|not (?:able|going|allowed|permitted|sure|certain|familiar))"
    r"|(?<![\w'’] )sorry|(?:very|so|truly|really) sorry|(?<![\w'’] )apologies|my apologies|(?:i|we) apologi[sz]e"
    r"|as an ai|(?<![\w'’] )unable to|unable to (?:comply|answer|help|assist|provide|complete|say|write|respond|fulfil)"
    r"|(?:i|we) (?:can ?not|can['’]t|could not|couldn['’]t|won['’]t|will not|refuse|decline|must (?:decline|refuse)"
    r"|have to (?:decline|refuse)|would rather not|know nothing"
    r"|(?:do not|don['’]t) (?:want|know|understand|have (?:an?|any|the|enough) (?:answer|idea|information|knowledge))"
    r"|have no (?:answer|idea|information|knowledge|opinion))"
    r"|(?:can ?not|can['’]t|won['’]t) (?:do|answer|comply|help|say|write|provide|use|include|mention|give|finish"
    r"|discuss|be (?:completed|answered|fulfilled|processed|provided))"
    r"|no comment|no idea|must decline|not something (?:that )?i (?:can|will|may)|not enough information"
    r"|(?:my|our) (?:guidelines|policy|policies|programming|rules) (?:forbids?|prevents?|prohibits?|do|does|don['’]t)"
    r"|against (?:my|our) (?:guidelines|policy|policies|programming|rules)"
    r"|(?:do|did) you mean|please (?:clarify|specify|rephrase|try again)|need more (?:information|context|details)"
    r"|(?:could|can) you (?:please )?(?:clarify|specify|rephrase|repeat|provide)"
    r"|je (?:ne (?:peux|sais|veux|comprends)|n['’]ai (?:pas|aucune)|refuse|suis désolée?)|désolée?"
    r")\b",
    re.IGNORECASE,
)
"""The text refuses, does not know, or asks back."""

FILLERS = frozenset(
    "ok okay yes yeah yep nope sure certainly absolutely course please thanks thank welcome hello hi hey bonjour merci "
    "oui non none null nil undefined nan tbd todo unknown error unavailable nothing blank empty true false lorem ipsum "
    "dolor sit amet consectetur foo bar baz qux hm hmm mm mmm uh um er erm ah oh haha hehe hihi lol bla blah meh pad "
    "eos bos unk user assistant decline declined possible impossible".split()
)
"""Words that fill the place of an answer."""

_VOWEL = re.compile(r"[aeiouyàâäéèêëîïôöùûüœæ]")
_OVER_AND_OVER = re.compile(r"(.{1,4}?)\1{2,}")
_ROWS = "qwertyuiop qwertzuiop azertyuiop asdfghjkl zxcvbnm abcdefghijklmnopqrstuvwxyz xyzzy"
"""Keys in a row, and the alphabet: no word of four letters is a piece of one."""


def like_a_word(word: str) -> bool:
    """A number, or letters with a vowel that are no few letters over and over and no keys in a row."""
    if word.isdigit() or not (word.isascii() or _VOWEL.search(word)):  # other scripts have other vowels
        return True
    various = len(set(word)) > (1 if len(word) < 5 else 2) and not _OVER_AND_OVER.fullmatch(word)
    typed = len(word) > 3 and word in _ROWS
    return word.isalpha() and len(word) > 1 and various and not typed and _VOWEL.search(word) is not None
