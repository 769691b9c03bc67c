// What the page knows and does: a volume, its objects, and what the user and the server say about them.

import { ApiError } from "./api.js";
import { listenForFiles, MOST_FILES } from "./files.js";
import { fillHelp, listenForKeys } from "./keys.js";
import { Link } from "./link.js";
import { Marks } from "./marks.js";
import { bytesOfBase64, Masks } from "./masks.js";
import { millilitres, ObjectPanel } from "./objects.js";
import { ReviewPanel } from "./review.js";
import { Screen } from "./screen.js";
import { DOUBTFUL, Strip } from "./strip.js";
import { Tools } from "./tools.js";
import { Viewer } from "./viewer.js";
import { shortly, Windows } from "./windows.js";
import { duration, Work } from "./work.js";

const KEY = "medsam2-key";
const LAYOUT = "medsam2-layout";
const LOOK = "medsam2-look";
const LAYOUTS = ["main", "four", "one", "solid"];
const TOOLS = { v: "move", p: "include", n: "exclude", b: "box", s: "scribble", e: "erase" };
const MAX_LABEL = 255;

export class App {
  volume = null;
  objects = [];
  selected = null;
  hidden = new Set();
  slots = new Map(); // object id -> its label in the viewer's texture
  files = null; // that the volume was read from, to send them again
  voxels = null; // the volume as it came, to send that again
  isUnsure = false; // whether what was done last has reached the server
  isOwed = false; // the server has not got all of it again yet
  given = null; // id of the volume that the server has opened last
  taken = null; // id of the one that is shown here, or cannot be

  constructor(api, document) {
    this.api = api;
    this.screen = new Screen(document);
    const el = this.screen.el;
    this.el = el;
    this.viewer = new Viewer(el("image"));
    this.marks = new Marks(el("marks"), {
      viewer: this.viewer,
      prompts: () => this.object?.prompts ?? [],
      drawn: () => this.tools.drawn,
    });
    this.viewer.onDraw = () => this.marks.draw();
    this.viewer.onLost = () => this.screen.banner("The graphics card was reset, and the images come back by themselves. If they do not, load this page again.", { key: "lost" });
    this.viewer.onRestored = () => this.showAgain();
    this.viewer.hasObjects = () => this.objects.some(({ voxels }) => voxels);
    this.work = new Work(() => this.showWork());
    this.windows = new Windows(el("window"), el("window-numbers"), (...window) => this.setWindow(...window));
    this.strip = new Strip(
      { slider: el("slice"), canvas: el("strip"), axisName: el("slice-axis"), number: el("slice-number"), confidence: el("confidence") },
      (axis, slice) => this.goToSlice(axis, slice),
    );
    this.panel = new ObjectPanel({ list: el("objects"), prompts: el("prompts"), hint: el("prompts-hint") }, {
      select: (id) => this.select(id),
      rename: (id, name) => this.change(id, { name }),
      colour: (id, colour) => this.change(id, { colour }),
      toggle: (id) => this.toggle(id),
      remove: (id) => this.remove(id),
      go: (box) => this.goTo(box.map(([start, stop]) => Math.floor((start + stop - 1) / 2))),
    });
    this.review = new ReviewPanel(
      api,
      { section: el("review"), list: el("review-list"), count: el("review-count"), accept: el("review-accept"), reject: el("review-reject") },
      {
        open: (study) => this.openStudy(study),
        show: (id, slice) => this.showStudy(id, slice),
        selected: () => this.selected,
        say: (text) => this.screen.status(text),
        act: (something) => this.act(something),
      },
    );
    this.tools = new Tools(this.viewer, {
      point: (kji, positive) => this.prompt("point", { kji, positive }, kji),
      box: (box, positive) => this.prompt("box", { box, positive }, box.map(([start, stop]) => Math.floor((start + stop - 1) / 2))),
      stroke: (kind, box, bits, positive) => this.stroke(kind, box, bits, positive),
      hover: (kji) => this.hover(kji),
      window: (...window) => this.setWindow(...window),
      moved: () => this.moved(),
      tool: (tool) => this.showTool(tool),
    });
    this.listen();
  }

  get object() {
    return this.objects.find(({ id }) => id === this.selected);
  }

  async start() {
    fillHelp(this.el("keys"));
    this.api.key = keyOfAddress() ?? sessionStorage.getItem(KEY);
    this.viewer.layout = LAYOUTS.includes(localStorage.getItem(LAYOUT)) ? localStorage.getItem(LAYOUT) : "main";
    this.showLayout();
    this.tools.choose("include");
    try {
      await this.viewer.start();
    } catch {
      this.screen.banner("This browser cannot draw images: it has no WebGL 2. Allow it in the browser's settings, or use another browser.");
      this.screen.status("Images cannot be drawn here");
      this.screen.state("ready");
      return;
    }
    this.link = new Link(this.api, {
      link: (word, error) => this.linked(word, error),
      hello: (state, isNew) => this.hello(state, isNew),
      event: (name, data) => this.event(name, data),
      needKey: (wasWrong) => this.askKey(wasWrong),
      ended: (reason) => this.ended(reason),
      full: (error) => this.full(error),
    });
    await this.link.run();
  }

  // The server.

  linked(word, error) {
    this.screen.link(word);
    if (word === "gone") {
      this.api.giveUp();
      this.work.clear();
      this.el("ahead").textContent = "";
      const kept = this.volume ? " Your masks are safe here." : "";
      const refuses = `The server refuses what it is sent again: ${error.message}`;
      const why = error.name === "Unreadable" ? error.message : error.status > 0 ? refuses : "The server does not answer.";
      this.screen.banner(`${why} Trying again until it does.${kept}`, { key: "gone" });
      this.screen.status("Waiting for the server");
      return;
    }
    this.screen.quiet("gone"); // it answers, be it that it asks for a key
    this.screen.quiet("full");
    if (word === "up") {
      if (this.isUnsure && !this.screen.isSaying) this.screen.banner("The server is there again. What you did last may not have reached it: if you do not see it, do it again.", { kind: "note", key: "verb" });
      this.isUnsure = false;
      this.showWork();
    }
  }

  full(error) {
    this.screen.banner(`This server is busy: ${error.message} This page goes on trying.`, { kind: "note", key: "full" });
    this.screen.status("Waiting for a place");
  }

  async askKey(wasWrong) {
    sessionStorage.removeItem(KEY);
    this.screen.status("Waiting for the key");
    const key = await this.screen.askKey(wasWrong);
    sessionStorage.setItem(KEY, key);
    return key;
  }

  async ended(reason) {
    this.work.clear();
    const again = this.volume ? " Your file and masks are still here and are sent again." : "";
    const why = reason === "replaced"
      ? `It is open in another tab.${again ? " Here, a new one can begin from the same file and masks." : ""}`
      : `The server ends sessions in which nothing happens for a while.${again}`;
    await this.screen.askToContinue("This session has ended", why);
  }

  // A session's state, at the start and whenever the connection is there again.
  async hello(state, isNew) {
    this.limits = state;
    this.el("caution").hidden = !state.notices.caution;
    this.el("caution").textContent = this.el("caution").title = state.notices.caution ?? "";
    const known = this.volume;
    if (known && (isNew || this.isOwed)) {
      this.isOwed = true; // also where the connection breaks meanwhile, and the session is no new one then
      this.screen.state("loading");
      if (this.files || state.volume?.id !== known.id) await this.sendAgain();
      else await this.sendMasksAgain(state.objects);
      this.isOwed = false;
    } else if (!state.volume) {
      this.showNothing();
      if (state.review) await this.act(() => this.review.begin());
    } else {
      await this.showGiven(state, known);
      if (state.review && !this.review.isOn) await this.act(() => this.review.begin());
    }
    this.screen.state(this.work.isBusy ? "busy" : "ready");
    this.showWork();
  }

  async showGiven({ volume, objects }, known) {
    try {
      if (known?.id !== volume.id) {
        this.files = null;
        this.review.leave();
        await this.load(volume);
      }
      await this.adopt(objects);
      if (!known) this.lookAgain();
    } catch (error) {
      if (error.name !== "Unshown") throw error;
      this.refused(error, volume.name);
    }
  }

  // The server has lost the session: give it everything that is still here.
  async sendAgain() {
    this.screen.status("Sending your file again");
    const state = await this.uploadAgain();
    this.volume.no_segmentation = state.volume.no_segmentation;
    this.showExports();
    this.screen.progress(null);
    await this.sendMasksAgain(state.objects);
  }

  // The files themselves or, if they are not there any more, the volume as it is known here.
  async uploadAgain() {
    const tell = (share) => this.screen.progress(share, false);
    if (this.files) {
      try {
        return await this.api.upload(this.files, tell);
      } catch (error) {
        if (error.status !== 0) throw error;
        await this.api.call("GET", "/api/session"); // the server is there, so that it is the files
        this.files = null;
      }
    }
    return this.api.upload([new File([this.voxels], `${this.volume.name.replace(/\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|npz|dcm)$/i, "")}.nii`)], tell);
  }

  async sendMasksAgain(fresh) {
    const old = this.objects;
    const bits = new Map(old.map(({ id }) => [id, this.masks.add(id).bits]));
    const objects = [];
    for (const [n, { name, colour }] of old.entries()) {
      objects.push(n < fresh.length
        ? await this.api.call("PATCH", `/api/objects/${fresh[n].id}`, { name, colour })
        : await this.api.call("POST", "/api/objects", { name, colour }));
    }
    const at = Math.max(0, old.findIndex(({ id }) => id === this.selected));
    const masks = new Masks(this.volume.shape);
    for (const [n, object] of objects.entries()) {
      const mask = bits.get(old[n].id);
      masks.replace(object.id, mask);
      if (mask.some(Boolean)) {
        await this.api.call("PUT", `/api/objects/${object.id}/mask`, undefined, { body: mask, type: "application/octet-stream" });
        [object.voxels, object.ml] = [old[n].voxels, old[n].ml];
      }
    }
    this.review.moved(new Map(old.map(({ id }, n) => [id, objects[n].id])));
    this.hidden.clear();
    this.slots.clear();
    [this.masks, this.objects] = [masks, objects];
    this.select(objects[at].id);
    this.refreshLabels();
    this.screen.banner("The server has begun anew. Your file and masks are there again; earlier steps cannot be undone any more.", { kind: "note", key: "again" });
  }

  // What somebody looked at before the page was loaded again: a click goes to the same object as before.
  lookAgain() {
    const kept = JSON.parse(sessionStorage.getItem(LOOK) ?? "null");
    if (kept?.volume !== this.volume.id) return;
    if (this.objects.some(({ id }) => id === kept.selected)) this.select(kept.selected);
    this.tools.choose(kept.tool);
    this.setWindow(...kept.window);
    this.goTo(kept.voxel);
  }

  // After the graphics card was reset.
  async showAgain() {
    const [voxel, shown] = this.volume ? [this.viewer.voxel, this.viewer.window] : [];
    await this.viewer.start();
    if (this.volume) {
      await this.viewer.show(await this.voxels.arrayBuffer(), this.volume);
      this.shownColours = null;
      this.select(this.selected);
      this.refreshLabels();
      this.setWindow(...shown);
      this.goTo(voxel);
    }
    this.screen.quiet("lost");
  }

  keepLook() {
    if (!this.volume) return;
    const { selected, viewer: { voxel, window }, tools: { tool } } = this;
    sessionStorage.setItem(LOOK, JSON.stringify({ volume: this.volume.id, selected, voxel, window, tool }));
  }

  showNothing() {
    this.volume = null;
    document.title = "MedSAM2 viewer";
    this.screen.screen("start");
    this.el("file").hidden = true;
    this.showExports();
    this.screen.status("No file open");
  }

  // DICOM-SEG refers to DICOM images; where there are none, or they cannot be referred to, the reason is shown.
  showExports() {
    const why = this.volume?.no_segmentation;
    for (const name of ["nifti", "nrrd", "dicom"]) this.el(`export-${name}`).disabled = !this.volume || (name === "dicom" && Boolean(why));
    this.el("export-hint").hidden = !why;
    this.el("export-hint").textContent = why ?? "";
  }

  async load(volume) {
    this.screen.state("loading");
    this.screen.screen("viewer");
    this.screen.status("Loading the images");
    const tell = (share) => this.screen.progress(share, false);
    const voxels = await this.api.download("/api/volume", tell).finally(() => this.screen.progress(null));
    const buffer = await voxels.arrayBuffer();
    this.given = this.taken = volume.id;
    this.voxels = voxels;
    try {
      await this.viewer.show(buffer, volume);
    } catch (error) {
      this.volume = null;
      throw new ApiError(-1, "Unshown", `This volume cannot be shown: ${error.message}`);
    }
    this.volume = volume;
    this.isOwed = false;
    this.masks = new Masks(volume.shape);
    this.objects = [];
    this.hidden.clear();
    this.slots.clear();
    this.work.last = this.hovered = null;
    this.windows.begin(volume);
    this.el("file").hidden = false;
    this.el("file-name").textContent = this.el("file-name").title = volume.name;
    const size = [...volume.shape].reverse().join(" × ");
    const spacing = [...volume.spacing_mm].reverse().map((mm) => Number(mm.toPrecision(3))).join(" × ");
    this.el("file-facts").textContent = this.el("file-facts").title = `${volume.modality ? `${volume.modality}, ` : ""}${size} voxels, ${spacing} mm${this.viewer.isReduced ? ", shown coarser" : ""}`;
    this.showExports();
    document.title = `${volume.name} – MedSAM2 viewer`;
    this.setAxis(0);
  }

  // The server's objects, masks and all.
  async adopt(objects) {
    for (const { id, voxels } of objects) {
      if (!voxels) {
        this.masks.remove(id);
        this.masks.add(id);
        continue;
      }
      const answer = await this.api.send("GET", `/api/objects/${id}/mask`);
      this.masks.replace(id, new Uint8Array(await this.api.read(answer, "arrayBuffer")));
    }
    for (const { id } of this.objects) if (!objects.some((object) => object.id === id)) this.forget(id);
    this.objects = objects;
    if (!this.object) this.selected = objects[0].id;
    this.select(this.selected);
    this.refreshLabels();
  }

  event(name, data) {
    if (name === "mask") this.patch(data);
    else if (name === "begun") this.work.of(data.seq);
    else if (name === "taken") this.took(data.described);
    else if (name === "progress") this.work.progressed(data.seq, data.done, data.planned);
    else if (name === "ahead") this.showAhead(data);
    else if (name === "volume") this.catchUp(data.id);
    else if (name === "done" || name === "failed") {
      if (data.described) this.replaceObject(data.described);
      this.work.of(data.seq);
      this.viewer.whenShown(() => this.work.ended(data.seq)); // over is what is on the screen
      if (name === "failed") this.screen.banner(data.detail, { key: "verb" });
    }
  }

  patch({ seq, object: id, box, bits, axis, confidence }) {
    const object = this.objects.find((each) => each.id === id);
    if (!object) return;
    this.masks.patch(id, box, bytesOfBase64(bits));
    object.voxels = this.masks.add(id).voxels;
    object.ml = (object.voxels * this.volume.spacing_mm.reduce((product, mm) => product * mm, 1)) / 1000;
    if (object.axis !== axis) [object.axis, object.confidence] = [axis, new Array(this.volume.shape[axis]).fill(null)];
    confidence.values.forEach((value, n) => (object.confidence[confidence.start + n] = value));
    this.viewer.patchLabels(box, (whole) => this.masks.labels(whole, this.order));
    const verb = this.work.of(seq);
    this.viewer.whenShown(() => this.work.drawn(verb));
    this.showObjects();
  }

  // A prompt counts, and can be undone, from its first slice on; masks say for themselves what else there is.
  took({ id, prompts, prompted, can_undo, can_redo, num_forgotten, num_forgotten_redo, is_complete }) {
    const object = this.objects.find((each) => each.id === id);
    if (!object) return;
    Object.assign(object, { prompts, prompted, can_undo, can_redo, num_forgotten, num_forgotten_redo, is_complete });
    this.showObjects();
    this.viewer.draw();
  }

  replaceObject(described) {
    const at = this.objects.findIndex(({ id }) => id === described.id);
    if (at < 0) return;
    this.objects[at] = described;
    this.showObjects();
    this.viewer.draw();
  }

  // What the server has opened is what is shown, also where that was stopped too late: prompts would go to the other.
  async catchUp(id = this.given) {
    this.given = id;
    if (!id || this.sending || this.isOwed || id === this.taken) return;
    await this.act(async () => this.hello(await this.api.call("GET", "/api/session"), false));
  }

  // A study of the cohort, with the masks that it has there.
  async openStudy(study) {
    this.screen.status(`Opening ${study}`);
    const own = this.sending ? null : (this.sending = {});
    try {
      const state = await this.api.call("POST", "/api/review/open", { study });
      this.files = null;
      await this.load(state.volume);
      await this.adopt(state.objects);
      return state.reviewing;
    } finally {
      if (own) this.sending = null;
      this.screen.state("ready");
      if (!this.volume) this.screen.status("No file open");
      this.showWork();
      await this.catchUp();
    }
  }

  showStudy(id, slice) {
    this.select(id);
    if (slice === null) return;
    const centre = this.masks.centre(id, this.strip.axis, slice);
    if (centre) this.goTo(centre);
    else this.goToSlice(this.strip.axis, slice);
  }

  // Verbs.

  begin() {
    this.review.clicked();
    this.screen.quiet("verb");
  }

  async prompt(verb, words, at) {
    this.goTo(at);
    this.begin();
    await this.act(() => this.work.send(() => this.api.call("POST", `/api/objects/${this.selected}/${verb}`, words)));
  }

  async stroke(kind, box, bits, positive) {
    this.begin();
    await this.act(() => this.work.send(() => this.api.call("POST", `/api/objects/${this.selected}/${kind}`, undefined, {
      body: bits, type: "application/octet-stream", headers: { "X-Meta": JSON.stringify({ box, positive }) },
    })));
  }

  async plain(verb) {
    this.begin();
    await this.act(() => this.work.send(() => this.api.call("POST", `/api/objects/${this.selected}/${verb}`, {}), verb === "predict"));
  }

  async cancel() {
    if (this.tools.stop()) {
      this.showWork();
      return;
    }
    if (this.sending?.abort) this.sending.abort();
    else if (this.work.isBusy) await this.act(() => this.api.call("POST", "/api/cancel", {}));
  }

  async open(files) {
    if (this.sending) return this.tell("Another file is being opened: wait, or stop it (Esc)");
    this.sending = {};
    this.screen.state("loading");
    this.screen.startError(null);
    this.screen.quiet();
    const what = files.length === 1 ? files[0].name : `${files.length} files`;
    let choices = null;
    try {
      if (files.length > MOST_FILES) throw new ApiError(413, "TooMany", `They are more than ${MOST_FILES}: choose one series of them.`);
      const total = files.reduce((sum, { size }) => sum + size, 0);
      if (this.limits && total > this.limits.max_upload_bytes) {
        const mib = this.limits.max_upload_bytes / 2 ** 20;
        throw new ApiError(413, "TooLarge", `${what} is larger than this server takes (${Math.floor(mib)} MiB).`);
      }
      this.screen.status(`Sending ${what}`);
      const state = await this.api.upload(files, (share) => {
        this.screen.progress(share);
        if (share === 1) this.screen.status(`Reading ${what}`);
      }, this.sending);
      this.screen.progress(null);
      this.files = files;
      this.review.leave();
      await this.load(state.volume);
      await this.adopt(state.objects);
      this.el("image").focus({ preventScroll: true });
    } catch (error) {
      choices = error.choices;
      if (!choices) this.refused(error, what);
    } finally {
      this.sending = null;
      this.screen.progress(null);
      this.screen.state("ready");
      this.showWork();
      await this.catchUp();
    }
    const chosen = choices && await this.screen.choose(choices);
    if (!this.volume) this.screen.status("No file open");
    if (chosen) await this.open(chosen.files.map((number) => files[number]));
  }

  refused(error, what) {
    if (!(error instanceof ApiError)) throw error;
    const text = error.name === "Stopped" ? error.message : `${what} could not be opened. ${error.message}`;
    if (this.volume) this.screen.banner(text, { key: "open" });
    else {
      this.screen.screen("start");
      this.screen.startError(text);
      this.screen.status("No file open");
    }
  }

  async addObject() {
    if (!this.volume) return;
    await this.act(async () => {
      const object = await this.api.call("POST", "/api/objects", {});
      this.objects.push(object);
      this.masks.add(object.id);
      this.select(object.id);
    });
  }

  async change(id, words) {
    await this.act(async () => this.replaceObject(await this.api.call("PATCH", `/api/objects/${id}`, words)));
    this.showObjects();
  }

  async remove(id) {
    await this.act(async () => {
      const { objects } = await this.api.call("DELETE", `/api/objects/${id}`);
      this.forget(id);
      this.objects = objects;
      for (const each of objects) this.masks.add(each.id);
      this.select(this.object ? this.selected : objects[0].id);
      this.refreshLabels();
    });
  }

  forget(id) {
    this.masks.remove(id);
    this.hidden.delete(id);
    this.slots.delete(id);
  }

  async save(format) {
    await this.act(async () => {
      this.screen.status("Writing the masks");
      const answer = await this.api.send("GET", `/api/export?format=${format}`);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await this.api.read(answer, "blob"));
      const stem = this.volume.name.replace(/\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|npz|dcm)$/i, "");
      link.download = `${stem}-masks.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      const unfinished = this.objects.filter((object) => object.voxels && !isWhole(object)).map(({ name }) => name);
      if (unfinished.length) this.screen.banner(`The file has what was found by now: ${unfinished.join(", ")} not followed to the end.`, { kind: "note", key: "verb" });
      this.showWork();
    });
  }

  // For eyes and ears.
  tell(text) {
    this.screen.status(text);
    this.screen.say(text);
  }

  // Does something that the server may refuse.
  async act(something) {
    if (this.isOwed) return this.tell("Wait until the server has your file and masks again");
    try {
      await something();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 410) return; // the stream of events says so too
      if (error.status === 0) {
        this.isUnsure = true;
        this.link.doubt(error);
        return;
      }
      this.screen.banner(error.message, { key: "verb" });
    }
  }

  // Looking.

  select(id) {
    this.selected = id;
    this.setAxis(this.object.axis);
    this.showObjects();
    this.review.showButtons();
    this.viewer.draw();
    this.showWork();
  }

  toggle(id) {
    if (!this.hidden.delete(id)) this.hidden.add(id);
    this.showObjects();
  }

  setWindow(lower, upper) {
    this.viewer.setWindow(lower, upper);
    this.windows.show(lower, upper);
    this.viewer.draw();
  }

  // The axis that slider and strip run along: that of the selected object's slices.
  setAxis(axis) {
    const plane = this.viewer.planeOfAxis(axis);
    if (this.strip.axis !== axis || this.viewer.plane !== plane || this.strip.count !== this.volume.shape[axis]) {
      this.strip.begin(axis, this.volume.shape[axis], ["Axial", "Coronal", "Sagittal"][plane]);
      this.viewer.setPlane(plane);
    }
    this.moved();
  }

  goTo(kji) {
    this.viewer.goTo(kji);
    this.moved();
  }

  goToSlice(axis, slice) {
    const voxel = this.viewer.voxel;
    voxel[axis] = slice;
    this.goTo(voxel);
  }

  moved() {
    const voxel = this.viewer.voxel;
    this.tools.follow();
    this.strip.show(voxel[this.strip.axis]);
    this.hover(this.hovered ?? null);
  }

  hover(kji) {
    this.hovered = kji;
    if (!this.volume) return;
    const at = kji ?? this.viewer.voxel;
    this.el("readout").textContent = `${shortly(this.viewer.intensity(at))}   at ${at[2] + 1}, ${at[1] + 1}, ${at[0] + 1}`;
  }

  nextDoubtful() {
    const { count } = this.strip;
    for (let n = 1; n <= count; n++) {
      const slice = (this.strip.at + n) % count;
      if (this.strip.isDoubtful(slice)) return this.goToSlice(this.strip.axis, slice);
    }
    this.screen.status(`The object is on no slice below ${DOUBTFUL}`);
    return null;
  }

  setLayout(layout) {
    localStorage.setItem(LAYOUT, layout);
    this.viewer.setLayout(layout);
    this.showLayout();
  }

  // What labels mean in the viewer, and showing it.

  get order() {
    return this.objects.map(({ id }) => [id, this.slotOf(id)]);
  }

  slotOf(id) {
    if (!this.slots.has(id)) {
      const taken = new Set(this.slots.values());
      let slot = 1;
      while (taken.has(slot) && slot < MAX_LABEL) slot++;
      this.slots.set(id, slot);
    }
    return this.slots.get(id);
  }

  refreshLabels() {
    const whole = this.volume.shape.map((length) => [0, length]);
    this.viewer.patchLabels(whole, () => this.masks.labels(whole, this.order));
  }

  // Steps beyond those that a button can take.
  tellForgotten(name, count) {
    const button = this.el(name);
    button.dataset.title ??= button.title;
    const steps = count === 1 ? "1 further step" : `${count} further steps`;
    button.title = button.dataset.title + (count ? `\nThe server had no memory to keep ${steps} (--max-memory).` : "");
  }

  showObjects() {
    this.panel.show(this.objects, this.selected, this.hidden);
    const colours = [];
    for (const { id, colour } of this.objects) colours[this.slotOf(id) - 1] = { colour, isVisible: !this.hidden.has(id) };
    const key = JSON.stringify(colours);
    if (key !== this.shownColours) this.viewer.setColours(colours);
    this.shownColours = key;
    const { object } = this;
    this.el("undo").disabled = !object?.can_undo;
    this.el("redo").disabled = !object?.can_redo;
    this.tellForgotten("undo", object?.num_forgotten);
    this.tellForgotten("redo", object?.num_forgotten_redo);
    this.el("object-reset").disabled = !object?.prompts.length;
    if (!object) return;
    this.strip.fill({
      values: object.confidence,
      present: this.masks.presence(object.id, object.axis),
      prompted: object.prompted,
      colour: object.colour,
    });
  }

  showWork() {
    const { work, screen } = this;
    this.viewer.isBusy = work.isBusy;
    if (screen.root.dataset.state !== "loading") screen.state(work.isBusy ? "busy" : "ready");
    this.el("go-on").hidden = Boolean(this.sending) || work.isBusy || (this.object?.is_complete ?? true);
    if (!this.sending) {
      screen.progress(work.share);
      if (work.isBusy) {
        const slices = work.slices;
        this.wasBusy = true;
        screen.status(slices ? `Following the object, ${slices[0]} of ${slices[1]} slices` : "Segmenting");
      } else if (this.object && screen.root.dataset.link !== "gone") {
        const { name, ml } = this.object;
        const isComplete = isWhole(this.object);
        const stopped = `Stopped: ${name} is not followed to its end`;
        screen.status(isComplete ? "Ready" : stopped);
        if (this.wasBusy) screen.say(isComplete ? `Done. ${name}: ${millilitres(ml)} millilitres.` : stopped);
        this.wasBusy = false;
      }
    }
    if (!work.last) {
      this.el("timing").textContent = "";
      return;
    }
    const { first, whole } = work.last;
    const strong = (ms) => Object.assign(document.createElement("b"), { textContent: duration(ms) });
    this.el("timing").replaceChildren("First mask ", strong(first), ...(whole ? [", whole ", strong(whole)] : []));
  }

  showAhead({ done, planned }) {
    this.el("ahead").textContent = done < planned ? `Preparing slices, ${done} of ${planned}` : "";
  }

  showTool(tool) {
    for (const button of this.el("tools").children) check(button, button.dataset.tool === tool);
  }

  showLayout() {
    for (const button of this.el("layouts").children) check(button, button.dataset.layout === this.viewer.layout);
  }

  listen() {
    const { el } = this;
    const on = (id, act) => el(id).addEventListener("click", act);
    listenForFiles(
      { pick: el("files"), folder: el("folder"), chooseFiles: el("choose-files"), chooseFolder: el("choose-folder"), cover: el("drop-cover") },
      (files) => this.open(files),
      (error) => this.refused(new ApiError(-1, "Unreadable", error.message), "What was dropped"),
    );
    on("open", () => el("files").click());
    on("undo", () => this.plain("undo"));
    on("redo", () => this.plain("redo"));
    on("object-add", () => this.addObject());
    on("object-reset", () => this.plain("reset"));
    on("cancel", () => this.cancel());
    on("go-on", () => this.plain("predict"));
    on("export-nifti", () => this.save("nii.gz"));
    on("export-nrrd", () => this.save("nrrd"));
    on("export-dicom", () => this.save("dcm"));
    on("fit", () => this.viewer.home());
    on("masks-toggle", () => this.toggleMasks());
    el("opacity").addEventListener("input", () => this.viewer.setOpacity(Number(el("opacity").value) / 100));
    for (const button of el("tools").children) button.addEventListener("click", () => this.tools.choose(button.dataset.tool));
    for (const button of el("layouts").children) button.addEventListener("click", () => this.setLayout(button.dataset.layout));
    roving(el("tools"));
    roving(el("layouts"));
    listenForKeys((key, event) => this.key(key, event));
    el("image").addEventListener("keydown", (event) => this.imageKey(event));
    addEventListener("pagehide", () => this.keepLook());
    addEventListener("hashchange", () => keyOfAddress() && location.reload());
    addEventListener("resize", () => this.viewer.grid && this.viewer.setLayout(this.viewer.layout));
  }

  toggleMasks() {
    this.viewer.setOpacity(this.viewer.opacity, !this.viewer.areVisible);
    this.el("masks-toggle").textContent = this.viewer.areVisible ? "Hide" : "Show";
    this.el("masks-toggle").setAttribute("aria-label", this.viewer.areVisible ? "Hide masks" : "Show masks");
  }

  // Whether a key meant anything.
  key(key) {
    if (key === "?") this.el("help").showModal();
    else if (key === "Escape") this.cancel();
    else if (!this.volume) return false;
    else if (TOOLS[key]) {
      this.tools.choose(TOOLS[key]);
      this.el("image").focus({ preventScroll: true }); // where arrows and Enter use it
    }
    else if (key === "undo" || key === "redo") {
      if (!this.el(key).disabled) this.plain(key);
    } else if (key === "g") {
      if (!this.el("go-on").hidden) this.plain("predict");
    } else if (key === "a") this.addObject();
    else if (key === "m") this.toggleMasks();
    else if (this.review.isOn && key === "y") this.review.decide("accepted");
    else if (this.review.isOn && key === "x") this.review.decide("rejected");
    else if (key === "w") this.windows.next();
    else if (key === "d") this.nextDoubtful();
    else if (key === "f") this.setLayout(LAYOUTS[(LAYOUTS.indexOf(this.viewer.layout) + 1) % LAYOUTS.length]);
    else if (key === "0") this.viewer.home();
    else if (key === "+" || key === "=") this.viewer.zoom(1.25);
    else if (key === "-") this.viewer.zoom(0.8);
    else if (key === "PageUp") this.goToSlice(this.strip.axis, this.strip.at + 1);
    else if (key === "PageDown") this.goToSlice(this.strip.axis, this.strip.at - 1);
    else if (key === "F2") this.panel.rename(this.selected);
    else if (/^[1-9]$/.test(key) && this.objects[key - 1]) this.select(this.objects[key - 1].id);
    else return false;
    return true;
  }

  // Arrows move the crosshair on the large plane, Enter prompts where it is.
  imageKey(event) {
    if (!this.volume || this.viewer.isLost || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      this.goTo(this.viewer.beside(step, event.shiftKey ? 10 : 1));
    } else if (event.key === "Enter" && this.tools.enter(event.shiftKey)) {
      if (this.tools.drawn) this.tell("Drawing: arrow keys draw, Enter ends, Esc gives up");
    } else if (event.key === "Enter") {
      const at = this.viewer.voxel;
      this.prompt("point", { kji: at, positive: !event.shiftKey && this.tools.tool !== "exclude" }, at);
    } else return;
    event.preventDefault();
  }

  // For tests: what there is, and where on the canvas a voxel lies, once its slice is shown.

  state() {
    const { object, volume } = this;
    return {
      shape: volume?.shape ?? null,
      voxel: volume ? this.viewer.voxel : null,
      maskedVoxels: object ? this.masks.add(object.id).voxels : 0,
      selected: this.selected,
      prompted: this.strip.prompted,
      objects: this.objects.map(({ id, name, colour, voxels, ml }) => ({ id, name, colour, voxels, ml })),
      window: volume ? this.viewer.window : null,
      layout: this.viewer.layout,
      tool: this.tools.tool,
      timing: this.work.last ? { firstMs: this.work.last.first, wholeMs: this.work.last.whole } : null,
    };
  }

  point(kji) {
    if (!this.volume) return null;
    this.goTo(kji);
    this.viewer.drawNow();
    const tile = this.viewer.tiles.find(({ type }) => type === this.viewer.plane);
    if (!tile) return null;
    const [x, y] = this.viewer.pixelOf(kji, tile);
    return { x, y };
  }

  failed(error) {
    this.screen.banner(`Something in this page failed: ${error?.message ?? error}. Load it again.`, { key: "failed" });
  }
}

function keyOfAddress() {
  const [, text] = location.hash.match(/^#key=(.+)$/) ?? [];
  if (!text) return null;
  const key = new URLSearchParams(`key=${text.replace(/[+&]/g, encodeURIComponent)}`).get("key"); // as it is in the file too
  sessionStorage.setItem(KEY, key);
  history.replaceState(null, "", location.pathname + location.search);
  return key;
}

// Nothing is left to be found; a mask as it was given is followed nowhere.
function isWhole({ is_complete, prompts }) {
  return is_complete || prompts.every(({ kind }) => kind === "seed");
}

function check(button, isChecked) {
  button.setAttribute("aria-checked", String(isChecked));
  button.tabIndex = isChecked ? 0 : -1;
}

// Arrow keys within a group of which one is chosen.
function roving(group) {
  group.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const buttons = [...group.children];
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
    event.preventDefault();
  });
}
