// Keyboard shortcuts, and the list of them in the help.

// Key as the event names it, what the help calls it, what it does there.
export const TABLE = [
  ["Tools", [
    ["v", "V", "Look around"],
    ["p", "P", "Include"],
    ["n", "N", "Exclude"],
    ["b", "B", "Box"],
    ["s", "S", "Scribble"],
    ["e", "E", "Erase"],
    [null, "Shift or Alt click", "Exclude, with any tool"],
  ]],
  ["Work", [
    ["undo", "Ctrl Z", "Undo"],
    ["redo", "Ctrl Shift Z", "Redo"],
    ["Escape", "Esc", "Stop"],
    ["g", "G", "Go on after a stop"],
    ["a", "A", "New object"],
    [null, "1 – 9", "Select an object"],
    ["F2", "F2", "Rename the object"],
    ["m", "M", "Hide or show masks"],
  ]],
  ["Review of a cohort", [
    ["y", "Y", "Accept the object as it is shown"],
    ["x", "X", "Reject it"],
  ]],
  ["View", [
    [null, "Wheel", "Change the slice"],
    ["PageUp", "Page Up", "Next slice"],
    ["PageDown", "Page Down", "Previous slice"],
    ["d", "D", "Next doubtful slice"],
    [null, "Right drag", "Window"],
    ["w", "W", "Next window preset"],
    [null, "Ctrl wheel, + −", "Zoom"],
    [null, "Middle drag", "Pan"],
    [null, "Two fingers", "Zoom and pan"],
    ["0", "0", "Fit to view"],
    ["f", "F", "Next layout"],
    ["?", "?", "This help"],
  ]],
  ["On the image", [
    [null, "Arrows", "Move the crosshair"],
    [null, "Enter", "Include what is under it"],
    [null, "Shift Enter", "Exclude what is under it"],
    [null, "Enter, arrows, Enter", "Draw a box or stroke, with its tool"],
  ]],
];

export function fillHelp(place) {
  for (const [title, rows] of TABLE) {
    const group = document.createElement("section");
    group.append(Object.assign(document.createElement("h3"), { textContent: title }));
    for (const [, key, text] of rows) {
      const row = document.createElement("div");
      row.append(text, Object.assign(document.createElement("kbd"), { textContent: key }));
      group.append(row);
    }
    place.append(group);
  }
}

// Keys that mean something once, however long they are held: what comes next has not been looked at yet.
const ONCE = new Set(["y", "x", "a"]);

// act(name, event) is told "undo", "redo", or the key itself; it returns whether that meant anything.
export function listenForKeys(act) {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const isTyping = event.target.matches?.("input:not([type=range]):not([type=color]), textarea, select");
    if (isTyping) return;
    const isCommand = event.ctrlKey || event.metaKey;
    let name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (isCommand) {
      if (name === "z") name = event.shiftKey ? "redo" : "undo";
      else if (name === "y") name = "redo";
      else return;
    }
    if (event.altKey || (event.repeat && ONCE.has(name))) return;
    if (act(name, event)) event.preventDefault();
  });
}
