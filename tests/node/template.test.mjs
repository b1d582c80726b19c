// Chat templates come inside model files: whatever they do ends soon, in a text or a typed error.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Realm } from '../../node/dist/index.mjs';
import { DEMO, QUESTION, rejectsWith } from './helpers.mjs';

const realm = new Realm();
before(() => realm.loadModel(DEMO));
after(() => realm.dispose());

const render = (chatTemplate, templateVariables = {}, messages = QUESTION) =>
  realm.renderChat(messages, { chatTemplate, templateVariables });

test('what templates do everyday is as before', async () => {
  const cases = {
    '{% for i in range(3) %}{{ i }}{{ "," if not loop.last }}{% endfor %}': '0,1,2',
    '{{ range(1, 10, 4) | list }}{{ range(5, 0, -2) | length }}': '[1, 5, 9]3',
    '{{ "a b c".split() | join("-") }}{{ "a,b".split(",")[1] }}': 'a-b-cb',
    '{{ "banana".replace("a", "o") }}{{ "x" | replace("x", "y") }}': 'bononoy',
    '{{ {"b": [1, {"c": none}], "a": "é"} | tojson }}': '{"b": [1, {"c": null}], "a": "é"}',
    '{{ [1, 2] | tojson(indent=2) }}': '[\n  1,\n  2\n]',
    '{{ "a\nb" | indent(2, true) }}': '  a\n  b',
    '{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}': '6',
    '{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice("ab") }}{{ "b" in "abc" }}{{ 2 in [1, 2] }}': 'ababtruetrue',
    '{% for m in messages | selectattr("role", "equalto", "user") %}{{ m.content | trim | upper }}{% endfor %}':
      'WHAT IS THE CAPITAL OF FRANCE?',
    '{{ [{"n": 2}, {"n": 1}] | sort(attribute="n") | map(attribute="n") | list }}{{ "abcdef"[1:4] }}{{ [1, 2, 3][::-1] }}': '[1, 2]bcd[3, 2, 1]',
    '{% if messages | length == 1 and not missing is defined %}yes{% else %}no{% endif %}': 'yes',
    '{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}': '13',
  };
  for (const [template, expected] of Object.entries(cases)) assert.equal(await render(template), expected, template);
  assert.equal(await render('{{ strftime_now("%Y") }}'), String(new Date().getFullYear()));
  await rejectsWith(render('{{ raise_exception("no") }}'), 'template-error');
});

test('long conversations are no attack', async () => {
  const content = 'word '.repeat(400);
  const messages = Array.from({ length: 1000 }, (_, index) => ({ role: index % 2 ? 'assistant' : 'user', content }));
  const template = `{% for message in messages %}{% if loop.index0 == messages | length - 1 %}LAST{% endif %}
    {{ '<' + message.role + '>' + message['content'].replace('word', 'words') | trim + '</s>' }}{% endfor %}`;
  const text = await render(template, {}, messages);
  assert(text.length > 1000 * content.length);
  assert.equal(text.split('LAST').length, 2);
});

const big = 'a'.repeat(1 << 20);
const NESTED = Array.from({ length: 60 }, (_, index) => `{% set a${index + 1} = [a${index}, a${index}] %}`).join('');
const BOMBS = {
  'nested loops': '{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}',
  'a large range': '{{ range(1000000000) | length }}',
  'a range that stands still': '{% for i in range(10000000000000000, 10000000000000002, 0.5) %}{% endfor %}',
  'a range of infinity': '{% for i in range(10 ** 308 * 10) %}{% endfor %}',
  'doubling a text': `{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}`,
  'doubling by printing': `{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}`,
  'doubling a list': '{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}',
  'lists in lists': `{% set a0 = ['x'] %}${NESTED}{{ a60 | tojson }}`,
  'lists in lists, printed': `{% set a0 = ['x'] %}${NESTED}{{ a60 }}`,
  'lists in lists, compared': `{% set a0 = ['x'] %}${NESTED}{{ a60 == 'x' }}`,
  'a namespace in itself': '{% set n = namespace(a=1) %}{% set n.a = [n, n] %}{{ n }}',
  'namespaces of namespaces': `{% set n0 = namespace(a=1) %}${Array.from({ length: 60 }, (_, i) =>
    `{% set n${i + 1} = namespace(a=n${i}, b=n${i}) %}`).join('')}{{ n60 | tojson }}`,
  'replace': `{{ big.replace('a', big) | length }}`,
  'replace nothing': `{{ big.replace('', big) | length }}`,
  'the filter replace': `{{ big | replace('a', big) | length }}`,
  'join': `{{ range(100000) | join(big) | length }}`,
  'indent': `{{ 'a\nb' | indent(1000000000) | length }}`,
  'tojson with indent': `{{ [[[1]]] | tojson(indent=1000000000) | length }}`,
  'printing again and again': `{% for i in range(100000) %}{{ big }}{% endfor %}`,
  'printing a list again and again': `{% set l = big.split('b') %}{% for i in range(100000) %}{{ l }}{% endfor %}`,
  'searching': `{% set s = big + big %}{% for i in range(1000) %}{{ ('b' + big) in s }}{% endfor %}`,
  'a macro that calls itself': '{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}',
  'a macro that calls itself twice': '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}',
  'dates': `{{ strftime_now(big.replace('a', '%B')) }}`,
  'paths': `{{ range(9999) | map(attribute=big.replace('a', '.')) | list }}`,
  'deep brackets': `{{ ${'('.repeat(50000)}1${')'.repeat(50000)} }}`,
  'deep lists': `{{ ${'['.repeat(50000)}1${']'.repeat(50000)} }}`,
  'blanks': `{{ 1 }}${' '.repeat(200000)}{{ 2 }}`,
  'a long source': `{{ 1 }}${'x'.repeat(300000)}`,
};

for (const [name, template] of Object.entries(BOMBS)) {
  test(`bomb: ${name}`, async () => {
    const began = performance.now();
    const before = process.memoryUsage().rss;
    await rejectsWith(render(template, template.includes('big') ? { big } : {}), 'template-error');
    const ms = performance.now() - began;
    assert(ms < 4000, `${ms} ms`); // the budget of one second, on a busy machine
    assert(process.memoryUsage().rss - before < 400 << 20);
  });
}

test('functions and circles are no data', async () => {
  const circle = {};
  circle.self = circle;
  await rejectsWith(render('{{ circle }}', { circle }), 'template-error');
});
