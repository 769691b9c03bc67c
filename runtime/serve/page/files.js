// Files that are chosen or dropped, folders too.

export const MOST_FILES = 5000; // that a server takes together

export function listenForFiles({ pick, folder, chooseFiles, chooseFolder, cover }, onFiles, onUnreadable) {
  chooseFiles.addEventListener("click", () => pick.click());
  chooseFolder.addEventListener("click", () => folder.click());
  for (const input of [pick, folder]) {
    input.addEventListener("change", () => {
      const files = usable([...input.files]);
      input.value = "";
      if (files.length) onFiles(files);
    });
  }
  let depth = 0;
  const show = (isOver) => {
    cover.hidden = !isOver;
    document.documentElement.toggleAttribute("data-dragging", isOver);
  };
  addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth++;
    show(true);
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) show(false);
  });
  addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    show(false);
    let files;
    try {
      files = usable(await dropped(event.dataTransfer));
    } catch (error) {
      return onUnreadable(error); // a folder that may not be looked into, or what has gone meanwhile
    }
    if (!files.length) return onUnreadable(new Error("There is no file in it."));
    onFiles(files);
  });
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  for (const entry of entries) await walk(entry, files);
  return files;
}

async function walk(entry, files) {
  if (files.length > MOST_FILES) return;
  if (entry.isFile) {
    files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const each of some) await walk(each, files);
  }
}

// What systems and DICOM media put beside images is left out.
function usable(files) {
  const kept = files.filter(({ name }) => !name.startsWith(".") && !["DICOMDIR", "Thumbs.db"].includes(name));
  return kept.length ? kept : files;
}
