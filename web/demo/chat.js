// The conversation: its messages, and their elements as the text grows.
//
// Text arrives faster than a screen can show it, so it is written once a frame. Screen readers get whole sentences.

const SENTENCE = /^[\s\S]*?[.!?…:]["')\]]?\s/;

export class Conversation {
  #list;
  #scroll;
  #spoken;
  #messages = [];

  constructor(list, scroll, spoken) {
    this.#list = list;
    this.#scroll = scroll;
    this.#spoken = spoken;
  }

  get started() {
    return this.#list.children.length > 0;
  }

  messages(system) {
    return [...(system ? [{ role: 'system', content: system }] : []), ...this.#messages];
  }

  /** Adds a question and the place of its answer. */
  ask(question) {
    const message = { role: 'user', content: question };
    this.#messages.push(message);
    this.#list.append(element('user', 'You', question));
    const item = element('assistant', 'Model', '');
    this.#list.append(item);
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    return new Answer(item, this.#scroll, this.#spoken, (text) => this.#ended(message, text));
  }

  clear() {
    this.#messages = [];
    this.#list.replaceChildren();
    this.#spoken.textContent = '';
  }

  /** A question without an answer is not told to the model again. */
  #ended(question, answer) {
    const at = this.#messages.indexOf(question);
    if (at < 0) return; // cleared meanwhile
    if (answer) this.#messages.splice(at + 1, 0, { role: 'assistant', content: answer });
    else this.#messages.splice(at, 1);
  }
}

class Answer {
  #item;
  #scroll;
  #spoken;
  #text = document.createTextNode('');
  #waiting = '';
  #unspoken = '';
  #frame = 0;
  #ended;

  constructor(item, scroll, spoken, ended) {
    this.#item = item;
    this.#scroll = scroll;
    this.#spoken = spoken;
    this.#ended = ended;
    item.setAttribute('aria-busy', 'true');
    item.querySelector('.text').append(this.#text);
  }

  add(piece) {
    this.#waiting += piece;
    this.#speak(piece);
    this.#frame ||= requestAnimationFrame(() => this.#write());
  }

  end(reason) {
    this.#finish(reason === 'length' ? 'Ended at the most tokens that the settings allow.' : '');
  }

  stopped() {
    this.#finish('Stopped.');
  }

  failed(problem) {
    this.#finish('');
    this.#item.append(problemElement('The answer failed', problem));
    this.#spoken.textContent = `The answer failed: ${problem.message}`;
  }

  #finish(note) {
    this.#write();
    this.#item.removeAttribute('aria-busy');
    if (note) this.#item.append(paragraph('note', note));
    if (this.#unspoken || note) this.#spoken.textContent = `${this.#unspoken} ${note}`;
    this.#follow();
    this.#ended(this.#text.data.trim());
  }

  #write() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#text.appendData(this.#waiting);
    this.#waiting = '';
    this.#follow();
  }

  /** Stays at the end of the text, unless the reader scrolled away from it. */
  #follow() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    if (scrollHeight - scrollTop - clientHeight < 120) this.#scroll.scrollTop = scrollHeight;
  }

  #speak(piece) {
    this.#unspoken += piece;
    const sentence = SENTENCE.exec(this.#unspoken)?.[0];
    if (!sentence) return;
    this.#spoken.textContent = sentence;
    this.#unspoken = this.#unspoken.slice(sentence.length);
  }
}

function element(role, who, text) {
  const item = document.createElement('li');
  item.className = `message ${role}`;
  item.append(paragraph('who', who), paragraph('text', text));
  return item;
}

function paragraph(name, text) {
  const made = document.createElement('p');
  made.className = name;
  made.textContent = text;
  return made;
}

/** What went wrong, in the SDK's words: they say what to do. The code is for reports. */
export function problemElement(title, problem, retry) {
  const box = paragraph('problem', '');
  const strong = document.createElement('strong');
  strong.textContent = title;
  box.append(strong, problem.message);
  if (problem.code) {
    const code = document.createElement('code');
    code.textContent = ` (${problem.code})`;
    box.append(code);
  }
  if (retry) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = 'Try again';
    button.addEventListener('click', retry);
    box.append(document.createElement('br'), button);
  }
  return box;
}
