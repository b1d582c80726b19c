"""Makes the chat template vectors: templates in the manners of real ones, as `transformers` renders them.

    python -m tests.vectors.make_templates      (needs requirements.txt)

templates.json: named templates, conversations, and for every pair of the two the output, or the error with its
class. What a conversation does not give (tools, documents) is there as None; strftime_now answers with NOW.
"""

# ruff: noqa: E501 (templates are data)

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from transformers.utils import chat_template_utils

PATH = Path(__file__).parent / "templates.json"
NOW = "2024-07-26T12:00:00"
BOS, EOS = "<s>", "</s>"

TEMPLATES = {
    "turns": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "headers": """{{- bos_token }}
{%- set ns = namespace(system='You help.') %}
{%- if messages[0].role == 'system' %}
    {%- set ns.system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|start|>system<|end|>\\n\\nToday is ' + strftime_now('%d %b %Y') + '.\\n' + ns.system + '<|eot|>' }}
{%- for message in messages %}
    {{- '<|start|>' + message.role + '<|end|>\\n\\n' + message.content | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant<|end|>\\n\\n' }}{% endif %}
""",
    "strict": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant') }}
    {% endif %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
<turn>{{ role }}
{{ message['content'] | trim }}<end>
{% endfor %}
{% if add_generation_prompt %}
<turn>model
{% endif %}
""",
    "inst": """{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}
{%- elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}""",
    "tools": """{%- macro show(tool, level=0) -%}
{{ '  ' * level }}{{ tool.function.name }}: {{ tool.function | tojson }}
{%- endmacro -%}
{% if tools %}Tools:
{% for tool in tools %}{{ show(tool, loop.index) }}
{% endfor %}{{ tools | tojson(indent=2) }}
{% endif %}
{%- for m in messages if m.role != 'system' %}
{%- if m.tool_calls is defined and m.tool_calls %}
{%- for call in m.tool_calls %}<call>{{ call.function.name }}({% for k, v in call.function.arguments.items() -%}
{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %})</call>{% endfor %}
{%- else %}[{{ m.role | upper }}] {{ m.content if m.content is string else m.content | length }}
{%- endif %}
{% endfor %}""",
    "loops": """{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}
{% if m.role == 'system' %}{% continue %}{% endif %}{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }}
{{ m.content.split('</think>')[-1].lstrip('\\n') | replace('a', 'A') | title }} {{ m.content[:3] }} {{ m.content[-2:] }}
{{- m.content is mapping }} {{ m.get('name', 'nobody') }} {{ [3, 1, 2] | sort | join('-') }} {{ "%.2f" | format(1.5) }}
{% endfor %}{{ messages | map(attribute='role') | list }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ range(3) | list }} {{ {'a': 1, 'b': [none, true, 1.5]} | tojson }} {{ 'ab' ~ 1 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 2 ** 8 }}""",
    "whitespace": "  {% if true %}  \n   a\n  {% endif %}  \n\n{# gone #}\nb  {{- ' c ' -}}  d\n   {%+ if true %}e{% endif %}\n",
    "unknown name": "{{ messages[0].content }}{{ functions.all }}",
    "iterates nothing": "{% for tool in tools %}{{ tool }}{% endfor %}",
    "syntax error": "{% for m in messages %}{{ m.content }",
    "reaches for classes": "{{ messages.__class__.__mro__ }}|{{ ''.__class__ }}",
    "changes its input": "{{ messages.append(1) }}",
    "generation marks": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
}  # fmt: skip

TOOL = {
    "type": "function",
    "function": {
        "name": "wetter",
        "description": "Weather <now> & 'here' in Zürich",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "wetter", "arguments": {"city": "Zürich"}}}],
}

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "question": {"messages": [{"role": "user", "content": "  Hello, how are you? 👋 "}], "add_generation_prompt": True},
    "no generation prompt": {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": False},
    "system": {
        "messages": [
            {"role": "system", "content": " Be brief.\n"},
            {"role": "user", "content": "banana"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA fruit."},
            {"role": "user", "content": "äh \"quoted\" <b>&amp;</b>", "name": "Ann"},
        ],
        "add_generation_prompt": True,
    },
    "tools": {
        "messages": [{"role": "user", "content": "Wetter?"}, CALL, {"role": "tool", "content": "{\"temp\": 21}"}],
        "tools": [TOOL],
        "add_generation_prompt": True,
    },
}  # fmt: skip


def main() -> None:
    expected = {
        name: {told: render(source, conversation) for told, conversation in CONVERSATIONS.items()}
        for name, source in TEMPLATES.items()
    }
    everything = {
        "now": NOW,
        "bos_token": BOS,
        "eos_token": EOS,
        "templates": TEMPLATES,
        "conversations": CONVERSATIONS,
        "expected": expected,
    }
    PATH.write_text(json.dumps(everything, indent=1) + "\n")
    print(sum(map(len, expected.values())), "renderings")


def render(source: str, conversation: dict[str, Any]) -> dict[str, str]:
    told = {key: value for key, value in conversation.items() if key not in ("messages", "tools")}
    with mock.patch.object(chat_template_utils, "datetime") as clock:
        clock.now.return_value = datetime.fromisoformat(NOW)
        try:
            rendered, _ = chat_template_utils.render_jinja_template(
                conversations=[conversation["messages"]],
                tools=conversation.get("tools"),
                documents=None,
                chat_template=source,
                bos_token=BOS,
                eos_token=EOS,
                **told,
            )
        except Exception as problem:  # whatever the template ran into is the expectation
            return {"error": f"{type(problem).__name__}: {problem}"}
    return {"output": rendered[0]}


if __name__ == "__main__":
    main()
