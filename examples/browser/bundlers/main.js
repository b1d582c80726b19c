// Asks the demo model in the page. The package's `browser` condition picks the build for pages; its engine runs in a worker.

import { Realm } from '@realm-ai/sdk';

const realm = new Realm();
const answer = document.querySelector('#answer');
const messages = [{ role: 'user', content: 'What is the capital of France?' }];
try {
  for await (const piece of realm.chatStream(messages, { temperature: 0 })) answer.append(piece);
} catch (problem) {
  answer.textContent = problem.message; // the SDK's messages say what to do
} finally {
  realm.dispose();
}
