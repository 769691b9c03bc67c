// The server's API: requests with the key and the session's token in headers, and events through a streamed answer.

const SILENT_MS = 35000;
const LOST = "The connection was lost.";
const ELSE = "What answers is not this page's server, but something else in its place";

export class ApiError extends Error {
  // status is 0 where no answer came at all.
  constructor(status, name, detail) {
    super(detail);
    this.status = status;
    this.name = name;
  }
}

export class Api {
  key = null;
  token = null;
  waiting = new AbortController(); // for answers

  // Wait no longer for what has been asked: as far as anybody knows there is no server any more.
  giveUp() {
    this.waiting.abort();
    this.waiting = new AbortController();
  }

  // JSON in, JSON out.
  async call(method, path, json, options = {}) {
    const answer = await this.send(method, path, {
      ...options,
      body: json === undefined ? options.body : JSON.stringify(json),
      type: json === undefined ? options.type : "application/json",
    });
    return answer.status === 204 ? null : this.read(answer, "json");
  }

  // An answer that is no error; ApiError otherwise.
  async send(method, path, { body, type, headers = {}, signal, keepalive, withinMs } = {}) {
    let answer;
    const ends = [signal ?? this.waiting.signal, ...(withinMs ? [AbortSignal.timeout(withinMs)] : [])];
    try {
      answer = await fetch(path, {
        method, body, signal: AbortSignal.any(ends), keepalive, cache: "no-store", credentials: "omit", redirect: "error",
        headers: { ...this.headers(), ...(type ? { "Content-Type": type } : {}), ...headers },
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "Unreachable", "The server does not answer.");
    }
    if (!answer.ok) throw await failure(answer.status, () => answer.text());
    return answer;
  }

  // What an answer holds: "json", "blob" or "arrayBuffer". Connections break there too.
  async read(answer, kind) {
    try {
      return await answer[kind]();
    } catch (error) {
      if (error instanceof SyntaxError) throw new ApiError(0, "Unreadable", `${ELSE}.`);
      throw new ApiError(0, "Unreachable", LOST);
    }
  }

  // What an answer holds, as a Blob, with word of how far it has come (0 to 1) where that is known: proxies may pack it.
  async download(path, onProgress) {
    const answer = await this.send("GET", path);
    const total = Number(answer.headers.get("Content-Length"));
    const pieces = [];
    let count = 0;
    try {
      for (const reader = answer.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) return new Blob(pieces);
        pieces.push(value);
        count += value.length;
        if (total) onProgress(Math.min(count / total, 1));
      }
    } catch {
      throw new ApiError(0, "Unreachable", LOST);
    }
  }

  // Files in one body, with word of how far they have come (0 to 1). `sending.abort()` stops it.
  upload(files, onProgress, sending = {}) {
    const listed = files.map((file) => ({ name: file.name, size: file.size }));
    const head = new TextEncoder().encode(JSON.stringify({ files: listed }));
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, head.length, true);
    const body = new Blob([length, head, ...files]);
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      sending.abort = () => request.abort();
      request.open("POST", "/api/volume");
      request.setRequestHeader("Content-Type", "application/octet-stream");
      for (const [name, value] of Object.entries(this.headers())) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => onProgress(event.loaded / Math.max(1, event.total));
      request.onload = async () => {
        if (request.status < 300) resolve(JSON.parse(request.responseText));
        else reject(await failure(request.status, async () => request.responseText));
      };
      request.onerror = () => reject(new ApiError(0, "Unreachable", "The server does not answer."));
      request.onabort = () => reject(new ApiError(0, "Stopped", "Opening was stopped."));
      request.send(body);
    });
  }

  // Calls onEvent(name, data) until the stream ends; ApiError where it breaks.
  async listen(onEvent, signal) {
    const answer = await this.send("GET", "/api/events", { headers: { Accept: "text/event-stream" }, signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let pieces = [];
    for (;;) {
      let step;
      try {
        step = await inTime(reader.read());
      } catch (error) {
        reader.cancel().catch(() => {});
        if (signal?.aborted) throw error;
        throw new ApiError(0, "Unreachable", LOST);
      }
      if (step.done) return;
      if (!step.value.includes("\n")) {
        pieces.push(step.value);
        continue;
      }
      pieces.push(step.value);
      const blocks = pieces.join("").split("\n\n");
      pieces = [blocks.pop()];
      for (const block of blocks) deliver(block, onEvent);
    }
  }

  headers() {
    return {
      ...(this.key ? { Authorization: `Bearer ${this.key}` } : {}),
      ...(this.token ? { "X-Lease-Token": this.token } : {}),
    };
  }
}

// A server that says nothing for so long is gone: it gives signs of life more often.
function inTime(reading) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("nothing was heard")), SILENT_MS);
  });
  return Promise.race([reading, late]).finally(() => clearTimeout(timer));
}

function deliver(block, onEvent) {
  let name = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) onEvent(name, JSON.parse(data));
}

async function failure(status, text) {
  let found;
  try {
    found = JSON.parse(await text()) ?? {};
  } catch {
    return new ApiError(status, "Unreadable", `${ELSE} (status ${status}).`); // a proxy
  }
  const detail = found.detail ?? found.error ?? `The server answered ${status}.`;
  return Object.assign(new ApiError(status, found.error ?? "ServerError", String(detail)), { choices: found.choices, verdict: found.verdict });
}
