// Verbs under way: which are running, and how long the last one has taken from the hand to the screen.

export class Work {
  constructor(onChange) {
    this.onChange = onChange;
    this.running = new Map(); // seq -> {start, first, whole, done, planned}
    this.over = new Set(); // numbers of verbs that have ended, some before their answer came
    this.sending = 0;
    this.last = null;
  }

  get isBusy() {
    return this.sending > 0 || this.running.size > 0;
  }

  // Send a verb; its number comes back with the answer, its events may come before that.
  // isTimed: whether its first mask is new. An undo's is an old one, and no time to tell of.
  async send(call, isTimed = true) {
    const begun = { start: performance.now(), first: null, whole: null, done: 0, planned: 0, isTimed };
    this.sending++;
    this.begun = begun;
    this.onChange();
    try {
      const { seq } = await call();
      if (!this.over.has(seq) && !this.running.has(seq)) this.running.set(seq, begun);
      return seq;
    } finally {
      this.sending--;
      this.onChange();
    }
  }

  of(seq) {
    if (!this.running.has(seq)) {
      // Its answer is still on the way, or another page's verb goes on here.
      this.running.set(seq, this.begun && !this.isKnown(this.begun) ? this.begun : { start: performance.now(), first: null, whole: null, isTimed: true });
    }
    return this.running.get(seq);
  }

  isKnown(verb) {
    return [...this.running.values()].includes(verb);
  }

  // A verb's mask is on the screen; it may have ended by then.
  drawn(verb) {
    if (verb.first === null) {
      verb.first = performance.now() - verb.start;
      this.last = verb.isTimed ? verb : null;
      this.onChange();
    }
  }

  progressed(seq, done, planned) {
    Object.assign(this.of(seq), { done, planned });
    this.onChange();
  }

  ended(seq) {
    const verb = this.of(seq);
    verb.whole = performance.now() - verb.start;
    if (this.begun === verb) this.begun = null;
    this.running.delete(seq);
    this.over.add(seq);
    this.onChange();
  }

  clear() {
    this.running.clear();
    this.over.clear();
    this.onChange();
  }

  // 0 to 1, or null while nothing runs.
  get share() {
    const verbs = [...this.running.values()];
    if (!verbs.length) return this.sending ? 0 : null;
    const planned = verbs.reduce((sum, verb) => sum + (verb.planned || 0), 0);
    return planned ? verbs.reduce((sum, verb) => sum + (verb.done || 0), 0) / planned : 0;
  }

  get slices() {
    const verbs = [...this.running.values()].filter((verb) => verb.planned);
    return verbs.length ? [verbs.reduce((sum, v) => sum + v.done, 0), verbs.reduce((sum, v) => sum + v.planned, 0)] : null;
  }
}

export function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}
