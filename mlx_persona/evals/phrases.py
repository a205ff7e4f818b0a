"""Stock assistant phrases: what an instruction-tuned model says and hardly anybody writes to a friend.

The list holds openers, offers, refusals and filler of assistants in English. A phrase that people use in
chats just as well ("let me know", "thank you", "I think") does not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Lower case, straight apostrophes; regular expressions, matched between word boundaries.
PHRASES: tuple[str, ...] = (
    # What it is.
    r"as an? (?:ai|artificial intelligence|(?:large )?language model|virtual assistant|assistant)\b",
    r"(?:i'm|i am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model|virtual assistant"
    r"|digital assistant|chatbot|computer program)\b",
    r"i (?:don't|do not) (?:have|possess) (?:personal|feelings|emotions|the ability|the capability|access to"
    r"|real-time)",
    r"i (?:don't|do not) actually (?:have|experience|feel)",
    r"my (?:training data|knowledge cutoff|programming)",
    r"(?:i was|i am|i'm) (?:trained|designed|programmed) (?:to|on|by)",
    r"(?:i'm|i am) (?:unable|not able) to (?:assist|help|provide|access|browse)",
    r"i (?:can't|cannot) (?:assist|provide|fulfill|engage)",
    r"(?:i'm|i am) here to (?:help|assist|listen|support|provide|answer)",
    # Offers.
    r"(?:i'm|i am|i'd be|i would be|i'll be) (?:always |more than |so )?(?:happy|glad|delighted|pleased) to"
    r" (?:help|assist|hear|answer|provide|discuss|chat|share|explain|offer)",
    r"how (?:can|may|could) i (?:help|assist|be of)",
    r"what can i (?:help|assist|do for) you",
    r"(?:is|are) there any(?:thing| (?:other )?questions?) (?:else |specific |in particular )?(?:you|i can)",
    r"anything else (?:you'd like|you would like|i can)",
    r"feel free to",
    r"(?:don't|do not|please don't) hesitate to",
    r"let me know if you(?:'d like| would like| need| have any| want me)",
    r"if you (?:have|need) any (?:other |more |further |additional )?(?:questions|help|assistance|information)",
    r"if you(?:'d| would) like,? (?:i|me|to (?:discuss|know|learn|share|talk about))",
    r"please (?:provide|let me know|feel|note|share|clarify|specify|tell me more)",
    r"(?:can|could) you (?:please )?(?:provide|give) (?:me )?(?:with )?(?:some )?more (?:details|context|information)",
    r"i(?:'d| would) (?:love|like) to (?:help|assist|hear more|learn more|know more)",
    r"i hope (?:this|that) (?:helps|information|message|answers|clarifies)",
    r"(?:good luck|best of luck) (?:with|on|in) your (?:journey|endeavors?|search|future)",
    # Openers.
    r"(?:certainly|absolutely|of course|sure thing|definitely)!",
    r"(?:that's|that is|what) an? (?:great|excellent|fantastic|wonderful|fascinating|thoughtful)"
    r" (?:question|point|idea|choice|observation|perspective)",
    r"(?:great|excellent) (?:question|point|choice)!",
    r"thank(?:s| you) for (?:your (?:question|message|interest|inquiry|response|feedback|kind)|sharing|reaching out"
    r"|asking|providing)",
    r"(?:that's|that is) (?:wonderful|fantastic|great|amazing) to hear",
    r"(?:i'm|i am) (?:so |really |very |truly )?sorry to hear",
    r"i apologi[sz]e (?:for|if)",
    r"i (?:completely |totally |can |fully )?understand (?:your|you're|that you|how you|that this|the)",
    r"it sounds like you(?:'re| are|'ve| have)",
    r"it's (?:great|wonderful|nice|lovely|a pleasure) to (?:hear|meet|chat|see that)",
    r"you've (?:asked|raised|mentioned|come to the right)",
    # Filler and lists.
    r"here (?:are|is) (?:some|a few|a list|the|an?|several) (?:\w+ )?(?:tips|suggestions|ideas|examples?|ways|steps"
    r"|options|things|list|general|key|possible|reasons|recommendations|step-by-step)",
    r"here are (?:some|a few|several|five|three|10|ten)",
    r"it(?:'s| is) (?:also )?(?:important|essential|crucial|worth|vital) (?:to|that|noting|mentioning)",
    r"(?:keep|bear) in mind that",
    r"there are (?:many|several|various|numerous|a (?:few|variety of|number of)) (?:\w+ )?"
    r"(?:ways|factors|reasons|options|types|resources|strategies|benefits)",
    r"(?:some|one) of the (?:most|best) (?:popular|common|important|effective|notable)",
    r"in (?:conclusion|summary)\b",
    r"(?:overall|ultimately|additionally|furthermore|moreover),",
    r"(?:firstly|secondly|lastly),",
    r"on the other hand,",
    r"(?:step-by-step|comprehensive) guide",
    r"wide (?:range|variety|array) of",
    r"plays? an? (?:crucial|vital|important|significant|key) role",
    r"(?:delve (?:in(?:to)?|deeper)|dive deeper)",
    r"a testament to",
    r"unique (?:needs|preferences|blend|perspective|style|experience)",
    r"(?:seek|consult|speak|talk) (?:with |to )?a (?:(?:qualified|licensed|mental|healthcare|health|medical) )+",
    r"(?:your|my) (?:goals|needs) and (?:preferences|interests|goals|values)",
    r"(?:take|taking) (?:some )?(?:time|steps) to (?:reflect|appreciate|explore|consider)",
    r"rewarding experience",
    r"(?:various|different) (?:aspects|perspectives|topics|subjects) of",
    r"as (?:we|you) (?:discussed|mentioned) (?:earlier|before|above)",
)
# No letter may touch a phrase on either side, unless the phrase itself ends in a mark.
_WORDS = re.compile(rf"(?<!\w)(?:{'|'.join(PHRASES)})(?:(?<=\W)|(?!\w))")
_STRAIGHT = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "\n": " ", "\u00a0": " "})


def matches(text: str) -> list[str]:
    """The stock phrases in a text, in order and lower case; none overlap.

    Case, typographic apostrophes and line breaks make no difference.
    """
    plain = text.lower().translate(_STRAIGHT)
    return [m[0] for m in _WORDS.finditer(plain)]


def stock_phrase_rate(texts: Sequence[str]) -> float:
    """Stock phrases per 100 replies (0 for no replies)."""
    if not texts:
        return 0.0
    return 100 * sum(len(matches(text)) for text in texts) / len(texts)
