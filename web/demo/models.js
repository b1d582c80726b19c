// The card of the model in use, and the list of models the browser keeps.

import { modelCache } from './realm/realm.mjs';
import { problemElement } from './chat.js';

export function bytes(size) {
  if (size < 1000) return `${size} B`;
  const power = Math.min(3, Math.floor(Math.log10(size) / 3));
  const value = size / 1000 ** power;
  return `${value.toFixed(value < 10 ? 1 : 0)} ${['B', 'KB', 'MB', 'GB'][power]}`;
}

/** 134515008 -> "135M" */
function count(number) {
  const [value, unit] = number >= 1e9 ? [number / 1e9, 'B'] : [number / 1e6, 'M'];
  return `${value.toFixed(value < 10 ? 1 : 0)}${unit}`;
}

export class ModelCard {
  #parts;
  #cancel = () => undefined;

  constructor(root) {
    const part = (id) => root.querySelector(`#${id}`);
    this.#parts = {
      name: part('model-name'), facts: part('model-facts'), loading: part('loading'),
      text: part('loading-text'), bar: part('progress'), problem: part('problem'),
    };
    part('cancel-load').addEventListener('click', () => this.#cancel());
  }

  loading(label, cancel) {
    this.#cancel = cancel;
    this.#show({ loading: true });
    this.#parts.name.textContent = label;
    this.#parts.facts.textContent = '';
    this.#parts.text.textContent = 'Opening';
    this.#parts.bar.removeAttribute('value'); // not known yet
  }

  progress(done) {
    this.#parts.bar.value = done;
    this.#parts.text.textContent = `Loading, ${Math.floor(done * 100)} %`;
  }

  ready(label, { info, chatTemplate }) {
    this.#show({});
    this.#parts.name.textContent = label;
    const facts = [`${count(info.parameterCount)} parameters`, bytes(info.weightBytes), `context ${info.contextLength}`];
    if (!chatTemplate) facts.push('no chat template: it continues your text');
    this.#parts.facts.textContent = facts.join(' · ');
  }

  stopped(retry) {
    this.failed(new Error('What was downloaded is kept: loading goes on from there.'), retry, 'Loading was cancelled');
  }

  failed(problem, retry, title = 'The model could not be loaded') {
    this.#show({ problem: true });
    this.#parts.problem.replaceChildren(...problemElement(title, problem, retry).childNodes);
    this.#parts.problem.scrollIntoView({ block: 'nearest' });
  }

  #show({ loading = false, problem = false }) {
    this.#parts.loading.hidden = !loading;
    this.#parts.problem.hidden = !problem;
  }
}

export class KeptModels {
  #root;
  #open;

  constructor(root, open) {
    this.#root = root;
    this.#open = open;
    root.addEventListener('toggle', () => this.refresh());
  }

  async refresh() {
    const models = await modelCache.list();
    this.#part('cached').replaceChildren(...models.map((model) => this.#row(model)));
    this.#part('cache-empty').hidden = models.length > 0;
    const total = models.reduce((sum, model) => sum + model.cached, 0);
    this.#part('cache-total').textContent = models.length > 0 ? `(${models.length}, ${bytes(total)})` : '';
  }

  #part(id) {
    return this.#root.querySelector(`#${id}`);
  }

  #row(model) {
    const row = document.createElement('li');
    const open = button('quiet name', model.name, () => this.#open(model));
    open.title = model.key;
    const size = document.createElement('span');
    size.className = 'hint';
    size.textContent = model.complete ? bytes(model.size) : `${bytes(model.cached)} of ${bytes(model.size)}`;
    const remove = button('quiet', 'Delete', () => this.#delete(model));
    remove.setAttribute('aria-label', `Delete ${model.name}`);
    row.append(open, size, remove);
    return row;
  }

  async #delete(model) {
    this.#part('cache-problem').textContent = '';
    try {
      await modelCache.delete(model.id);
    } catch (problem) {
      this.#part('cache-problem').textContent = problem.message;
    }
    await this.refresh();
    this.#root.querySelector('summary').focus(); // the button that was pressed is gone
  }
}

function button(name, text, click) {
  const made = document.createElement('button');
  made.type = 'button';
  made.className = name;
  made.textContent = text;
  made.addEventListener('click', click);
  return made;
}
