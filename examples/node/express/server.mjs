// Starts the server: MODEL, HOST and PORT come from the environment; SIGINT or SIGTERM ends it.

import { createApp } from './app.mjs';
import { Customers } from './customers.mjs';

// Of each customer: what goes over them is answered with 429 and when to retry; the others notice nothing.
const LIMITS = { concurrentRequests: 4, queueLength: 16, kvTokens: 16_384, tokensPerSecond: 2_000, tokensPerMinute: 40_000 };

const customers = new Customers({ model: process.env.MODEL, most: 100, limits: LIMITS });
const app = createApp(customers, { log: ({ customer, code }) => console.log(`${customer ?? '-'} ${code}`) });
const server = app.listen(Number(process.env.PORT ?? 8080), process.env.HOST ?? '127.0.0.1', (problem) => {
  if (problem) throw problem;
  console.log(`listening on port ${server.address().port}`);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    customers.close();
    server.close();
    server.closeAllConnections();
  });
}
