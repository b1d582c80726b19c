// The page: sends the conversation, shows the answer as it comes, aborts on request.

const form = document.getElementById('form');
const question = document.getElementById('question');
const answer = document.getElementById('answer');
const stop = document.getElementById('stop');
const messages = [];
let running;

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (running || !question.value.trim()) return;
  messages.push({ role: 'user', content: question.value });
  answer.textContent = '';
  stop.disabled = false;
  running = window.realm.chat(messages, { onText, onEnd, onError });
});

stop.addEventListener('click', () => running?.abort());

function onText(piece) {
  answer.textContent += piece;
}

function onEnd() {
  messages.push({ role: 'assistant', content: answer.textContent });
  rest();
}

function onError(problem) {
  messages.pop();
  answer.textContent += ` [${problem.code}]`;
  rest();
}

function rest() {
  running = undefined;
  stop.disabled = true;
  question.value = '';
}
