// Runs chat templates, which come inside model files and are hostile until proven otherwise.
//
// The interpreter of @huggingface/jinja has no limits of its own, so its steps are watched here: each costs a part of a budget of steps,
// time and bytes, and whatever makes a large value out of small ones is measured beforehand. Values are measured as they would be
// printed (a list that holds another one twice counts it twice), because printing is where such lists explode.

import { Environment, Interpreter, Template } from '@huggingface/jinja';

import { RealmError } from './errors.js';

const MAX_SOURCE = 256 << 10; // the longest template known has 16 KiB
const MAX_BLANKS = 1024; // in a row: the parser's time is their square
const MAX_VALUE = 4 << 20; // one string or list a template makes
const MAX_BYTES = 64 << 20; // everything a template makes, besides a multiple of what it is given
const MAX_STEPS = 1_000_000;
const MAX_MS = 1000;
const MAX_SEARCH = 1e8; // characters compared at worst by one search
const INPUT_FACTOR = 64;
const ITEM_BYTES = 32;
const MAX_ARGUMENT = 1024; // characters of a date's format or an attribute's path
const MAX_COMPILED = 16;
const MAX_ERROR_TEXT = 500;

const compiled = new Map<string, Template>();

/** The text a template makes of its variables, which are plain data. */
export function renderTemplate(source: string, variables: Record<string, unknown>): string {
  const outer = budget;
  try {
    const found = compile(source);
    budget = new Budget(inputSize(variables));
    return found.render(variables);
  } catch (problem) {
    if (problem instanceof RealmError) throw problem;
    throw new RealmError('template-error', explain(problem as Error).slice(0, MAX_ERROR_TEXT));
  } finally {
    budget = outer;
  }
}

function explain(problem: Error): string {
  if (!(problem instanceof RangeError)) return problem.message.split('\n')[0]!;
  return `the chat template ${problem.message.includes('stack') ? 'is nested too deeply' : 'makes too large a value'}`;
}

function compile(source: string): Template {
  if (source.length > MAX_SOURCE) throw overBudget(`is longer than ${MAX_SOURCE} characters`);
  if (new RegExp(`\\s{${MAX_BLANKS}}`).test(source)) throw overBudget(`has ${MAX_BLANKS} blanks in a row`);
  let found = compiled.get(source);
  if (!found) {
    if (compiled.size >= MAX_COMPILED) compiled.delete(compiled.keys().next().value!);
    compiled.set(source, (found = new Template(source)));
  }
  return found;
}

function overBudget(text: string): RealmError {
  return new RealmError('template-error', `the chat template ${text}`);
}

/** The characters of plain data. */
function inputSize(value: unknown): number {
  if (typeof value === 'string') return value.length;
  if (typeof value !== 'object' || value === null) return ITEM_BYTES;
  return Object.entries(value).reduce((sum, [key, item]) => sum + key.length + ITEM_BYTES + inputSize(item), 0);
}

// ---- the budget ----

let budget: Budget | undefined; // of the template that runs

class Budget {
  readonly largest: number;
  readonly #end = performance.now() + MAX_MS;
  #steps = MAX_STEPS;
  #bytes: number;

  constructor(input: number) {
    this.largest = MAX_VALUE + 4 * input;
    this.#bytes = MAX_BYTES + INPUT_FACTOR * input;
  }

  step(): void {
    if (--this.#steps < 0) throw overBudget('takes too many steps');
    if (performance.now() > this.#end) throw overBudget('takes too long');
  }

  fits(size: number): void {
    if (!(size <= this.largest)) throw overBudget('makes too large a value');
  }

  /** Before or after a value of this size is made. */
  spend(size: number): void {
    this.fits(size);
    this.#bytes -= size;
    if (this.#bytes < 0) throw overBudget('makes too much text');
  }

  search(text: string, part: string): void {
    if (part.length > MAX_BLANKS && text.length * part.length > MAX_SEARCH) throw overBudget('searches for too long a text');
  }
}

// ---- values of the interpreter ----

/** What all its classes of values have. */
interface Value {
  type: string;
  value: unknown;
}

/** Printed characters, items of all levels, levels. */
interface Measure {
  chars: number;
  items: number;
  depth: number;
}

const measured = new WeakMap<object, Measure>();

function measure(value: Value): Measure {
  if (typeof value.value === 'string') return { chars: value.value.length, items: 1, depth: 0 };
  if (value.type === 'NamespaceValue') throw overBudget('prints a namespace or puts it into a list');
  const inside = children(value.value);
  if (!inside) return { chars: ITEM_BYTES, items: 1, depth: 0 };
  let found = measured.get(value);
  if (!found) measured.set(value, (found = measureAll(inside)));
  return found;
}

function measureAll(inside: Iterable<[string, Value]>): Measure {
  const sum = { chars: ITEM_BYTES, items: 1, depth: 0 };
  for (const [key, item] of inside) {
    const { chars, items, depth } = measure(item);
    sum.chars += key.length + chars + ITEM_BYTES;
    sum.items += items;
    sum.depth = Math.max(sum.depth, depth + 1);
    if (sum.chars > budget!.largest) break; // that is enough to refuse it
  }
  return sum;
}

function children(value: unknown): Iterable<[string, Value]> | undefined {
  if (value instanceof Map) return value as Map<string, Value>;
  return Array.isArray(value) ? value.map((item): [string, Value] => ['', item as Value]) : undefined;
}

/** How often a text occurs in another one, at most. */
function occurrences(text: string, part: string): number {
  const most = part === '' ? text.length + 1 : Math.floor(text.length / part.length);
  if (part === '' || most * ITEM_BYTES < MAX_VALUE) return most;
  let count = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) count++;
  return count;
}

// ---- the watched interpreter ----

type Node = { type: string } & Record<string, unknown>;
type Call = (args: Value[], scope: unknown) => Value;
type Named = Map<string, Value>;

/** The methods that are replaced; the package declares most of them private. */
interface Methods {
  evaluate(node: Node | undefined, scope: unknown): Value;
  evaluateBlock(nodes: Node[], scope: unknown): Value;
  evaluateBinaryExpression(node: Node, scope: unknown): Value;
  applyFilter(operand: Value, filter: Node, scope: unknown): Value;
  evaluateArguments(args: Node[], scope: unknown): [Value[], Named];
}

const GIVEN = 'Given'; // a node that stands for a value
const MAKING = ['BinaryExpression', 'CallExpression', 'ArrayLiteral', 'TupleLiteral', 'ObjectLiteral', 'FilterExpression'];

const methods = Interpreter.prototype as unknown as Methods;
const { evaluate, evaluateBinaryExpression, applyFilter, evaluateArguments } = methods;
const original = { evaluate, evaluateBinaryExpression, applyFilter, evaluateArguments };
const text = Object.getPrototypeOf(new Environment().set('', '')) as { constructor: new (value: string) => Value };
let filtered: { operand: Value; name: string } | undefined; // the filter whose arguments come next

methods.evaluate = function (this: Methods, node, scope) {
  if (node?.type === GIVEN) return node['value'] as Value;
  budget!.step();
  if (node?.type === 'Program') limitGlobals(scope as Environment);
  const made = original.evaluate.call(this, node, scope);
  if (node && MAKING.includes(node.type)) spend(made);
  else if (node?.type === 'MemberExpression' && (node['property'] as Node).type === 'SliceExpression') spend(made);
  return made;
};

/** A new list or object costs its own items; what is in it was paid for already, but has to fit with it. */
function spend(made: Value): void {
  if (typeof made.value === 'string') return budget!.spend(made.value.length);
  if (made.type === 'NamespaceValue') return;
  budget!.fits(measure(made).chars);
  const inside = made.value;
  if (inside instanceof Map || Array.isArray(inside)) budget!.spend(ITEM_BYTES * ('size' in inside ? inside.size : inside.length));
}

/** Texts add up here without any node that makes them. */
methods.evaluateBlock = function (this: Methods, nodes, scope) {
  let result = '';
  for (const node of nodes) {
    const made = this.evaluate(node, scope);
    if (made.type === 'NullValue' || made.type === 'UndefinedValue') continue;
    budget!.spend(measure(made).chars);
    result += made.toString();
    budget!.fits(result.length);
  }
  return new text.constructor(result);
};

/** Both sides are evaluated first: what an operator does with them depends on their sizes. */
methods.evaluateBinaryExpression = function (this: Methods, node, scope) {
  const operator = (node['operator'] as { value: string }).value;
  if (operator === 'and' || operator === 'or') return original.evaluateBinaryExpression.call(this, node, scope);
  const left = this.evaluate(node['left'] as Node, scope);
  const right = this.evaluate(node['right'] as Node, scope);
  budget!.fits(measure(left).chars + measure(right).chars);
  if (operator.endsWith('in') && typeof left.value === 'string' && typeof right.value === 'string') {
    budget!.search(right.value, left.value);
  }
  const given = { ...node, left: { type: GIVEN, value: left }, right: { type: GIVEN, value: right } };
  return original.evaluateBinaryExpression.call(this, given, scope);
};

methods.applyFilter = function (this: Methods, operand, filter, scope) {
  const name = String(((filter['callee'] as Node | undefined) ?? filter)['value']);
  budget!.fits(measure(operand).chars);
  filtered = filter.type === 'CallExpression' ? { operand, name } : undefined;
  try {
    return original.applyFilter.call(this, operand, filter, scope);
  } finally {
    filtered = undefined;
  }
};

methods.evaluateArguments = function (this: Methods, args, scope) {
  const filter = filtered;
  filtered = undefined;
  const found = original.evaluateArguments.call(this, args, scope);
  if (filter) checkFilter(filter.operand, filter.name, ...found);
  return found;
};

function checkFilter(operand: Value, name: string, args: Value[], named: Named): void {
  const { chars, items, depth } = measure(operand);
  const numberOf = (value: Value | undefined, fallback: number): number => Number(value?.value ?? fallback);
  if (name === 'indent') {
    const width = numberOf(args[0] ?? named.get('width'), 4);
    budget!.spend(chars + Math.abs(width) * occurrences(`${String(operand.value)}\n`, '\n'));
  } else if (name === 'join') {
    const separator = args[0] ?? named.get('separator');
    const count = typeof operand.value === 'string' ? chars : items;
    budget!.spend(chars + count * (separator ? measure(separator).chars : 0));
  } else if (name === 'tojson') {
    const separators = named.get('separators');
    const between = numberOf(named.get('indent'), 0) * (depth + 1) + (separators ? measure(separators).chars : 0);
    budget!.spend(chars + items * Math.abs(between));
  } else if (name === 'map' || name === 'sort') {
    checkLength(args[2] ?? named.get('attribute'));
  }
}

function checkLength(argument: Value | undefined): void {
  if (typeof argument?.value === 'string' && argument.value.length > MAX_ARGUMENT) throw overBudget('has too long an argument');
}

// ---- functions of templates: those that may take long ask first ----

function limitGlobals(scope: Environment): void {
  before(scope.lookupVariable('strftime_now') as unknown as Value, ([format]) => checkLength(format));
  before(scope.lookupVariable('range') as unknown as Value, (args) => {
    if (!args.every((arg) => Number.isSafeInteger(arg.value))) throw overBudget('calls range with other than whole numbers');
    const [start = 0, stop = 0, step = 1] = args.map((arg) => arg.value) as number[];
    const count = args.length < 2 ? start : step === 0 ? 0 : (stop - start) / step;
    budget!.spend(ITEM_BYTES * Math.max(0, count));
  });
}

const builtins = Object.getOwnPropertyDescriptor(text, 'builtins')!.get!;
const limited = new WeakSet<Named>();

Object.defineProperty(text, 'builtins', {
  get(this: Value & { value: string }): Named {
    const found = builtins.call(this) as Named;
    if (!limited.has(found)) limitTextFunctions(found, this.value);
    limited.add(found);
    return found;
  },
});

function limitTextFunctions(functions: Named, own: string): void {
  before(functions.get('split')!, ([part]) => {
    if (typeof part?.value === 'string') budget!.search(own, part.value);
    const count = typeof part?.value === 'string' ? occurrences(own, part.value) : own.length / 2;
    budget!.spend(own.length + ITEM_BYTES * count);
  });
  before(functions.get('replace')!, ([old, by]) => {
    if (typeof old?.value !== 'string' || typeof by?.value !== 'string') return;
    budget!.search(own, old.value);
    budget!.spend(own.length + occurrences(own, old.value) * by.value.length);
  });
}

function before(target: Value, check: (args: Value[]) => void): void {
  const run = target.value as Call;
  target.value = ((args, scope) => {
    check(args);
    return run(args, scope);
  }) satisfies Call;
}
