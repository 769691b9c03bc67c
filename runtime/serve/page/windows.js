// Windows: how intensities become greys on the screen. What the network sees is the server's matter.

// Name, lower and upper in Hounsfield units.
const CT = [
  ["Soft tissue", -160, 240],
  ["Lung", -1350, 150],
  ["Bone", -500, 1300],
  ["Brain", 0, 80],
  ["Mediastinum", -125, 225],
  ["Liver", -20, 130],
];
const CT_KINDS = new Set(["abdomen", "lung", "brain", "mediastinum", "bone"]);

export function presetsOf(volume) {
  const auto = ["Auto", ...volume.window];
  const full = ["Full range", volume.lowest, volume.highest];
  const isCt = volume.modality === "CT" || (!volume.modality && CT_KINDS.has(volume.window_kind));
  return isCt ? [...CT, full] : [auto, full];
}

export class Windows {
  constructor(select, numbers, onChange) {
    [this.select, this.numbers, this.onChange] = [select, numbers, onChange];
    this.presets = [];
    select.addEventListener("change", () => {
      const preset = this.presets[select.selectedIndex];
      if (preset) this.onChange(preset[1], preset[2]);
    });
  }

  begin(volume) {
    this.volume = volume;
    this.presets = presetsOf(volume);
    this.select.replaceChildren(...this.presets.map(([name]) => new Option(name)));
    this.show(...volume.window);
  }

  next() {
    const now = this.presets.findIndex((preset) => this.isIt(preset));
    const [, lower, upper] = this.presets[(now + 1) % this.presets.length];
    this.onChange(lower, upper);
  }

  // The window that is shown now, whoever has changed it.
  show(lower, upper) {
    this.now = [lower, upper];
    const at = this.presets.findIndex((preset) => this.isIt(preset));
    const own = this.select.querySelector("[data-own]");
    if (at >= 0) {
      own?.remove();
      this.select.selectedIndex = at;
    } else {
      const option = own ?? this.select.appendChild(new Option("Own"));
      option.dataset.own = "";
      this.select.selectedIndex = this.presets.length;
    }
    this.numbers.textContent = `${shortly(lower)} to ${shortly(upper)}`;
  }

  isIt([, lower, upper]) {
    const near = 1e-4 * Math.abs(upper - lower) || 1e-5 * Math.max(1, Math.abs(upper));
    return Math.abs(lower - this.now[0]) <= near && Math.abs(upper - this.now[1]) <= near;
  }
}

export function shortly(value) {
  if (!Number.isFinite(value)) return "–";
  return Math.abs(value) >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3);
}
