// A mask that is painted by hand over a picture: strokes, in the picture's own pixels, drawn onto a canvas of its size.
//
// What is marked is to be painted over. Knows no pointer and no request.

export class Mask {
  // `canvas`: its size is the picture's.
  constructor(canvas) {
    this.canvas = canvas;
    this.strokes = []; // { width, erases, points: [{ x, y }] }
    this.context = canvas.getContext("2d");
    this.context.lineCap = this.context.lineJoin = "round";
    this.context.strokeStyle = this.context.fillStyle = "#d0305c";
  }

  begin(point, width, erases) {
    const stroke = { width, erases, points: [point] };
    this.strokes.push(stroke);
    this.#line(stroke, point, point);
  }

  extend(point) {
    const stroke = this.strokes.at(-1);
    this.#line(stroke, stroke.points.at(-1), point);
    stroke.points.push(point);
  }

  undo() {
    this.strokes.pop();
    this.#redraw();
  }

  clear() {
    this.strokes = [];
    this.#redraw();
  }

  #redraw() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const stroke of this.strokes) {
      stroke.points.forEach((point, at) => this.#line(stroke, stroke.points[Math.max(0, at - 1)], point));
    }
  }

  #line({ width, erases }, from, to) {
    this.context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    this.context.lineWidth = width;
    this.context.beginPath();
    this.context.moveTo(from.x, from.y);
    this.context.lineTo(to.x, to.y);
    this.context.stroke();
    if (from.x !== to.x || from.y !== to.y) return;
    this.context.arc(to.x, to.y, width / 2, 0, 2 * Math.PI); // a line of no length leaves nothing
    this.context.fill();
  }

  // PNG of the picture's size, transparent where it is marked; null where nothing is.
  async file() {
    const { width, height } = this.canvas;
    if (!this.strokes.length || !isMarked(this.context.getImageData(0, 0, width, height).data)) return null;
    const sheet = new OffscreenCanvas(width, height);
    const context = sheet.getContext("2d");
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.canvas, 0, 0);
    return new File([await sheet.convertToBlob({ type: "image/png" })], "mask.png", { type: "image/png" });
  }
}

// The server takes for transparent what is so by more than half.
function isMarked(pixels) {
  for (let at = 3; at < pixels.length; at += 4) if (pixels[at] > 128) return true;
  return false;
}
