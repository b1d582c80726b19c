"""`realm serve`: the engine behind HTTP, for clients of OpenAI's API and for Realm's own endpoints.

One request, file by file:
  protocol.py    bytes of a connection -> a request; limits on headers and on how slowly they may come
  middleware.py  request id, span, log line, metrics; body limit, host check, refusal while draining
  keys.py        API key -> tenant with its limits
  openai.py      /v1/chat/completions, /v1/completions; native.py has /v1/generate and /v1/stream
  admission.py   waits for its turn, or is turned away
  choices.py     runs in the tenant's realm; tenants.py and models.py hold realms and weights
  replies.py     pieces of text -> JSON, or server-sent events; errors.py when it goes wrong
  drain.py       how it all ends
run.py puts the process together, app.py the application. Installed with `pip install realm-ai[server]`.
"""
