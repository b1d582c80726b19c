// What adapters in JavaScript share: a request of the table in README.md, answered with the SDK of their host.

/** `options` make the realm, `locate` turns a request's model into what loadModel takes. */
export function answerer({ Realm, RealmError }, options = {}, locate = (path) => path) {
  return async (request) => {
    const realm = new Realm(options);
    try {
      const model = await realm.loadModel(await locate(request.model), { kvType: request.kv_type ?? 'f16' });
      return await OPERATIONS[request.op](realm, request, model);
    } catch (problem) {
      if (problem instanceof RealmError) return { error: problem.code };
      throw problem;
    } finally {
      realm.dispose();
    }
  };
}

const OPERATIONS = {
  load: async (realm, request, model) => ({ vocab_size: model.info.vocabSize }),
  generate: async (realm, request) => result(await realm.generate(request.prompt, settings(request))),
  chat: async (realm, request) => result(await realm.chat(request.messages, settings(request))),

  stream: async (realm, request) => {
    const stream = realm.streamTokens(request.prompt, settings(request));
    const pieces = [];
    for await (const piece of stream) pieces.push(piece);
    return { pieces, ...result(await stream.result) };
  },

  // Leaves a stream after its first piece, then uses the realm again.
  cancel: async (realm, request) => {
    for await (const _ of realm.streamTokens(request.prompt, settings(request))) break;
    return result(await realm.generate(request.then, { temperature: 0 }));
  },

  account: async (realm, request) => {
    await realm.generate(request.prompt, settings(request)).catch((problem) => assertCounted(problem));
    return { stats: snakeCase(await realm.tenantStats()) };
  },

  logits: async (realm, request) => {
    const rows = await realm.logits(request.ids);
    return { logits: base64(request.positions.map((at) => rows.at(at))) };
  },

  tokenize: async (realm, request) => {
    const flags = { addSpecial: request.add_special ?? false, parseSpecial: request.parse_special ?? false };
    return { ids: await realm.tokenize(request.text, flags) };
  },

  detokenize: async (realm, request) => ({ text: await realm.detokenize(request.ids) }),
};

// The SDK accepts the names of the WIT in snake_case as they are.
function settings(request) {
  const given = { mode: 'granular', ...request.settings }; // what cases mean that name none; the SDK's own default is whole
  const made = Object.fromEntries(Object.entries(given).map(([name, value]) => [name, number(value)]));
  if (made.logit_bias) {
    made.logit_bias = Object.fromEntries(Object.entries(made.logit_bias).map(([id, value]) => [id, number(value)]));
  }
  return made;
}

function number(value) {
  return ['NaN', 'Infinity', '-Infinity'].includes(value) ? Number(value) : value;
}

function result(made) {
  const { firstTokenSeconds, totalSeconds, tokensPerSecond, ...work } = made.timings;
  return {
    text: made.text,
    tokens: made.tokens,
    prompt_tokens: made.promptTokens,
    finish_reason: made.finishReason,
    logprobs: made.logprobs ?? null,
    top_logprobs: made.topLogprobs?.map((top) => top.map(({ id, logprob }) => [id, logprob])) ?? null,
    work: snakeCase(work),
  };
}

/** A tenant's account counts failures of requests; anything else is a failure of this program. */
function assertCounted(problem) {
  if (problem.name !== 'RealmError') throw problem;
}

/** {tokensPrompt: 2} -> {tokens_prompt: 2} */
function snakeCase(stats) {
  const name = (camel) => camel.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const entries = Object.entries(stats).map(([key, value]) => [name(key), typeof value === 'object' ? snakeCase(value) : value]);
  return Object.fromEntries(entries);
}

/** Of the rows' bytes, one after the other. */
function base64(rows) {
  const bytes = rows.flatMap((row) => [...new Uint8Array(row.buffer, row.byteOffset, row.byteLength)]);
  let text = '';
  for (let at = 0; at < bytes.length; at += 1024) text += String.fromCharCode(...bytes.slice(at, at + 1024));
  return btoa(text);
}
