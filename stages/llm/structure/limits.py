"""How large what an answer is held to may be, and how much work it may make. Decides numbers; measured with the schemas of
`tests/stages/llm/structure/hostile.py` on a slow core."""

from llguidance import LLParserLimits

MAX_TEXT_BYTES = 64 * 1024
"""Of a schema, a pattern, a list of choices or a grammar. The worst of this size that were found compile in a second or two."""

MAX_DEPTH = 64
"""Of what a schema nests in one another."""

MAX_MULTIPLE = 1000
"""A multiple is a state machine of as many states (of 0.025: 25), which nobody interrupts while it is made: about 25 us each."""

MAX_MULTIPLES = 25_000
"""Of all different multiples, and of what those have in common that a value may be held to at once."""

MAX_RULES = 500
MAX_RULE_CHARS = 2_000_000
"""Of a grammar in GBNF: of its rules, and of these times its characters. It becomes Lark in Python, which looks through all rules as
often as there are rules at worst: a second or two then."""

MAX_KEPT = 32
"""Of what answers are held to, compiled: an ordinary schema takes less than a megabyte, the largest some ten."""


def parser_limits() -> LLParserLimits:
    """Work is counted, so that the same text fails everywhere or nowhere. A mask takes a few tens of milliseconds at most, a row's
    states about as many megabytes."""
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        max_lexer_states=25_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )
