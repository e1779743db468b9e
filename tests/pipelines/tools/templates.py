"""Small chat templates that write tools and calls as the families do, for a jinja environment like transformers' own."""

HEAD = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
SAID = (
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}"
)
TAIL = "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\nTools:\n' }}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
)
CALLS = "{% for call in message.tool_calls or [] %}"
ARGUMENTS = "{{ call.function.arguments | tojson }}"
NAME = "{{ call.function.name }}"

PLAIN = HEAD + SAID + TAIL
STRICT = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}<|im_start|>assistant\n"
)
"""No system message, and turns that alternate."""


def family(call: str, *, before: str = "", behind: str = "", thought: str = "") -> str:
    """`call`: how one is written, `before`, `behind`: about all of them."""
    calls = "{% if message.tool_calls %}" + before + CALLS + call + "{% endfor %}" + behind + "{% endif %}"
    return TOOLS + HEAD + thought + SAID + calls + TAIL


_OBJECT = '{"name": "' + NAME + '", "arguments": ' + ARGUMENTS + "}"
BY_FORMAT = {
    "hermes": family("\n<tool_call>\n" + _OBJECT + "\n</tool_call>"),
    "qwen_coder": family(
        "\n<tool_call>\n<function=" + NAME + ">\n{% for key, value in call.function.arguments.items() %}"
        "<parameter={{ key }}>\n{{ value }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
    ),
    "mistral": family("{{ ', ' if not loop.first }}" + _OBJECT, before="[TOOL_CALLS] [", behind="]"),
    "mistral_named": family("[TOOL_CALLS]" + NAME + "[ARGS]" + ARGUMENTS),
    "deepseek": family(
        "<｜tool▁call▁begin｜>" + NAME + "<｜tool▁sep｜>" + ARGUMENTS + "<｜tool▁call▁end｜>",
        before="<｜tool▁calls▁begin｜>",
        behind="<｜tool▁calls▁end｜>",
    ),
    "deepseek_v3": family(
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>" + NAME + "\n```json\n" + ARGUMENTS + "\n```<｜tool▁call▁end｜>",
        before="<｜tool▁calls▁begin｜>",
        behind="<｜tool▁calls▁end｜>",
    ),
    "kimi": family(
        "<|tool_call_begin|>functions."
        + NAME
        + ":{{ loop.index0 }}<|tool_call_argument_begin|>"
        + ARGUMENTS
        + "<|tool_call_end|>",
        before="<|tool_calls_section_begin|>",
        behind="<|tool_calls_section_end|>",
    ),
    "phi": family("{{ ', ' if not loop.first }}" + _OBJECT, before="<|tool_call|>[", behind="]<|/tool_call|>"),
    "llama4_pythonic": family(
        "{{ ', ' if not loop.first }}" + NAME + "(x='y')", before="<|python_start|>[", behind="]<|python_end|>"
    ),
    "pythonic": family("{{ ', ' if not loop.first }}" + NAME + "(x='y')", before="[", behind="]"),
    "llama3": family('{"name": "' + NAME + '", "parameters": ' + ARGUMENTS + "}"),
}
UNKNOWN = family("CALL " + NAME + " WITH " + ARGUMENTS)
THINKING = family(
    "\n<tool_call>\n" + _OBJECT + "\n</tool_call>",
    thought="{% if message.reasoning_content %}{{ '<think>\n' + message.reasoning_content + '\n</think>\n' }}{% endif %}",
) + (
    "{% if add_generation_prompt %}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% elif begins_thought is defined %}{{ '<think>\n' }}{% endif %}{% endif %}"
)
