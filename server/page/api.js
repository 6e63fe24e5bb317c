// Requests to the server this page came from, and nobody else.

// An answer that is not 2xx, as one sentence.
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The key lives in this variable only: not in storage, not in the address.
let key = "";
export function setKey(text) {
  key = text.trim();
}

export async function request(path, options = {}) {
  const headers = {...options.headers};
  if (key) headers.Authorization = "Bearer " + key;
  const answer = await fetch(path, {...options, headers, credentials: "omit", cache: "no-store", redirect: "error"});
  if (!answer.ok) throw new ApiError(answer.status, await errorText(answer));
  return answer;
}

async function errorText(answer) {
  const text = await answer.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `the server answered ${answer.status}`;
  }
}

// Calls onChunk with each JSON object of an event stream, until [DONE]. A signal that aborts throws AbortError.
export async function stream(path, body, signal, onChunk) {
  const answer = await request(path, {
    method: "POST", signal, headers: {"Content-Type": "application/json"}, body: JSON.stringify(body),
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) throw new ApiError(0, "the connection ended before the answer did");
    held += value;
    for (let end; (end = held.indexOf("\n\n")) >= 0; held = held.slice(end + 2)) {
      const event = held.slice(0, end);
      if (!event.startsWith("data: ")) continue; // a comment that keeps the connection alive
      if (event === "data: [DONE]") return;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new ApiError(0, chunk.error.message);
      onChunk(chunk);
    }
  }
}
