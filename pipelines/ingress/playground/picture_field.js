// A field that holds one picture: chosen, dropped, or handed over by another part of the page. Knows nothing of what it is for.
//
// Its markup: `place` holds a file input, a `.drop-text`, an image `data-thumb` and a button `data-remove`. `changed(file)` hears of every picture,
// and of null.

export class PictureField {
  constructor(place, changed) {
    this.place = place;
    this.changed = changed;
    this.file = null;
    this.input = place.querySelector("input[type=file]");
    this.thumb = place.querySelector("[data-thumb]");
    this.remove = place.querySelector("[data-remove]");
    this.input.addEventListener("change", () => this.input.files[0] && this.take(this.input.files[0]));
    this.remove.addEventListener("click", () => {
      this.take(null);
      this.input.focus();
    });
    for (const kind of ["dragenter", "dragover"]) place.addEventListener(kind, (event) => this.hover(event, true));
    place.addEventListener("dragleave", (event) => this.hover(event, false));
    place.addEventListener("drop", (event) => {
      this.hover(event, false);
      const file = event.dataTransfer.files[0];
      if (file) this.take(file);
    });
  }

  take(file) {
    URL.revokeObjectURL(this.thumb.src);
    this.file = file;
    this.thumb.hidden = this.remove.hidden = !file;
    this.place.querySelector(".drop-text").hidden = Boolean(file);
    if (file) this.thumb.src = URL.createObjectURL(file);
    else this.thumb.removeAttribute("src");
    this.input.value = "";
    this.changed(file);
  }

  hover(event, over) {
    event.preventDefault();
    this.place.classList.toggle("over", over);
  }
}

export function dataUrl(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => done(reader.result));
    reader.addEventListener("error", () => failed(new Error("This file could not be read.")));
    reader.readAsDataURL(file);
  });
}

export function pastedPicture(event) {
  return [...event.clipboardData.files].find((file) => file.type.startsWith("image/")) ?? null;
}
