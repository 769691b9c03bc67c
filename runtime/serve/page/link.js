// The connection: a session is claimed, its events are read, and what breaks is begun again for as long as it takes.

import { ApiError } from "./api.js";

const TOKEN = "medsam2-session";
const RETRY_MS = [300, 600, 1200, 2500, 5000];
const FULL_MS = 5000;
const LATE_MS = 20000; // for an answer that a server which is there gives at once

export class Link {
  // on: {link(word, error), hello(state, isNew), event(name, data), needKey(wasWrong), ended(reason), full(error)}
  // `needKey` and `ended` are waited for before anything goes on.
  constructor(api, on) {
    [this.api, this.on] = [api, on];
    this.isActive = false;
    api.token = sessionStorage.getItem(TOKEN);
    for (const kind of ["pointerdown", "keydown", "wheel"]) {
      addEventListener(kind, () => (this.isActive = true), { passive: true, capture: true });
    }
    this.clock = new Worker("/page/beat.js");
    this.clock.onmessage = () => this.beat();
    addEventListener("pagehide", () => this.leave());
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => !document.hidden && this.retry());
  }

  async run() {
    let failures = 0;
    for (;;) {
      try {
        const isNew = await this.claim();
        await this.read(isNew, () => (failures = 0));
        if (this.reason === "closing") throw new ApiError(0, "Closing", "The server is closing.");
        if (this.reason === "expired" || this.reason === "replaced") {
          this.forget();
          this.on.link("connecting");
          await this.on.ended(this.reason);
        }
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        await this.recover(error, failures++);
      }
    }
  }

  // Whether the session is a new one.
  async claim() {
    if (this.api.token) {
      try {
        await this.api.call("GET", "/api/session", undefined, { withinMs: LATE_MS });
        return false;
      } catch (error) {
        if (error.status !== 410) throw error;
        this.forget();
      }
    }
    const { token } = await this.api.call("POST", "/api/session", {});
    this.api.token = token;
    sessionStorage.setItem(TOKEN, token);
    return true;
  }

  // Events that arrive while the page catches up wait for it.
  async read(isNew, onUp) {
    this.reason = null;
    let isCaughtUp = false;
    let waiting = [];
    const stop = (this.reading = new AbortController());
    let failed = null;
    const catchUp = async () => {
      const state = await this.api.call("GET", "/api/session", undefined, { withinMs: LATE_MS });
      await this.on.hello(state, isNew);
      isCaughtUp = true;
      for (const [name, data] of waiting) this.on.event(name, data);
      waiting = [];
      this.on.link("up");
      onUp();
    };
    try {
      await this.api.listen((name, data) => {
        if (name === "over") this.reason = data.reason;
        else if (name === "hello") {
          catchUp().catch((error) => {
            failed = error;
            stop.abort();
          });
        } else if (isCaughtUp) this.on.event(name, data);
        else waiting.push([name, data]);
      }, stop.signal);
    } catch (error) {
      throw failed ?? (error instanceof ApiError ? error : new ApiError(0, "Unreachable", "The connection was lost."));
    }
    if (!this.reason) throw new ApiError(0, "Unreachable", "The connection was lost.");
  }

  // A request has found no server: the connection is begun anew, which tells whether it is gone and what reached it.
  doubt(error) {
    if (this.wake) this.on.link("gone", error);
    else this.reading?.abort();
  }

  // Wait no longer before the next attempt.
  retry() {
    this.wake?.();
  }

  pause(ms) {
    return new Promise((resolve) => {
      this.wake = resolve;
      setTimeout(resolve, ms);
    }).finally(() => (this.wake = null));
  }

  async recover(error, failures) {
    if (error.status === 401) {
      const wasWrong = Boolean(this.api.key);
      this.on.link("connecting");
      this.api.key = await this.on.needKey(wasWrong);
    } else if (error.status === 410) {
      this.forget();
    } else if (error.status === 503) {
      this.on.full(error);
      await this.pause(FULL_MS);
    } else {
      this.on.link("gone", error);
      await this.pause(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
    }
  }

  forget() {
    this.api.token = null;
    sessionStorage.removeItem(TOKEN);
  }

  // Its place is another's if this page does not come back.
  leave() {
    if (this.api.token) this.api.call("POST", "/api/leave", {}, { keepalive: true }).catch(() => {});
  }

  async beat() {
    if (!this.api.token) return;
    const active = this.isActive;
    this.isActive = false;
    try {
      await this.api.call("POST", "/api/heartbeat", { active }, { withinMs: LATE_MS });
    } catch {
      // The stream of events notices.
    }
  }
}
