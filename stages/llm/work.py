"""How much work an answer is, before it starts: tokens, and the steps that they take. Pure.

Its unit is a token that is computed, of a prompt or of an answer. The last token of an answer is never computed, and the step that
computes a prompt's last one gives the answer's first.
"""

from stages.contract.work import Work


def answer_work(num_prompt: int, num_answer: float, chunk_tokens: int) -> Work:
    """Of a prompt (what of it is still to be computed) that is answered with `num_answer` tokens from now on, read in chunks. With
    nothing to read, the answer goes on."""
    if num_prompt <= 0:
        return Work(num_answer, num_answer)
    more = max(0.0, num_answer - 1)
    return Work(num_prompt + more, -(-num_prompt // chunk_tokens) + more)
