// Compares two versions of a picture, one on each side of a line; both zoom and move together.

const STEP = 1.25;
const MOST = 16; // screen pixels for one picture pixel

export class Compare {
  // part: returns the page's element with an id.
  constructor(part) {
    this.part = part;
    this.view = part("view");
    this.size = [1, 1];
    this.scale = 1;
    this.offset = [0, 0];
    this.share = 0.5; // fraction of the view that shows the picture before
    this.fitted = true;
    this.both = false;
    this.pointers = new Map();
    this.listen();
  }

  // Shows one or two pictures, given the addresses of loaded images. Resolves when they are visible.
  async show(before, after) {
    const images = [[this.part("before"), before], [this.part("after"), after ?? before]];
    await Promise.all(images.map(([image, url]) => load(image, url)));
    const size = [this.part("before").naturalWidth, this.part("before").naturalHeight];
    const another = size[0] !== this.size[0] || size[1] !== this.size[1];
    this.size = size;
    this.both = Boolean(after);
    this.view.style.setProperty("--ratio", String(size[0] / size[1])); // of the view where that is narrow
    for (const id of ["tag-before", "tag-after", "divider"]) this.part(id).hidden = !this.both;
    this.part("before").alt = after ? "The picture before" : "The picture";
    this.part("after").alt = after ? "The restored picture" : "";
    if (another) this.fit(); else this.draw();
  }

  get box() { return [this.view.clientWidth, this.view.clientHeight]; }

  // On many screens, device pixels are smaller than the page's; 1:1 refers to device pixels.
  get one() { return 1 / (window.devicePixelRatio || 1); }

  get whole() { return Math.min(this.box[0] / this.size[0], this.box[1] / this.size[1]); }

  fit() {
    this.fitted = true;
    this.scale = Math.min(this.whole, Math.max(this.one, 1) * 2);
    this.draw();
  }

  zoomTo(scale, [x, y] = [this.box[0] / 2, this.box[1] / 2]) {
    const least = Math.min(this.whole, this.one);
    const next = Math.min(Math.max(scale, least), MOST * this.one);
    const ratio = next / this.scale;
    this.offset = [x - (x - this.offset[0]) * ratio, y - (y - this.offset[1]) * ratio];
    this.scale = next;
    this.fitted = false;
    this.draw();
  }

  zoomBy(factor, at) { this.zoomTo(this.scale * factor, at); }

  moveBy(dx, dy) {
    this.offset = [this.offset[0] + dx, this.offset[1] + dy];
    this.draw();
  }

  setShare(share) {
    this.share = Math.min(Math.max(share, 0), 1);
    this.draw();
  }

  draw() {
    for (const axis of [0, 1]) {
      const free = this.box[axis] - this.size[axis] * this.scale;
      this.offset[axis] = free >= 0 ? free / 2 : Math.min(0, Math.max(free, this.offset[axis]));
    }
    const place = `translate(${this.offset[0]}px, ${this.offset[1]}px) scale(${this.scale})`;
    for (const id of ["before", "after"]) {
      const image = this.part(id);
      image.style.width = `${this.size[0]}px`;
      image.style.height = `${this.size[1]}px`;
      image.style.transform = place;
    }
    // The line stays on the picture.
    const left = Math.max(0, this.offset[0]);
    const right = Math.min(this.box[0], this.offset[0] + this.size[0] * this.scale);
    const share = this.holding ? 1 : this.share;
    const at = this.both ? left + (right - left) * share : this.box[0];
    this.part("clip").style.clipPath = `inset(0 ${this.box[0] - at}px 0 0)`;
    const divider = this.part("divider");
    divider.style.left = `${at}px`;
    divider.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    divider.setAttribute("aria-valuetext", `${Math.round(share * 100)} % before`);
    this.part("tag-before").style.opacity = share > 0.02 ? "1" : "0";
    this.part("tag-after").style.opacity = share < 0.98 ? "1" : "0";
    this.part("zoom").textContent = `${Math.round((this.scale / this.one) * 100)} %`;
    this.view.classList.toggle("pixels", this.scale >= 2 * this.one);
    this.span = [left, right];
  }

  hold(holding) {
    if (this.holding === holding) return;
    this.holding = holding;
    this.draw();
  }

  listen() {
    const view = this.view;
    const at = (event) => {
      const box = view.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const line = (event) => this.setShare((at(event)[0] - this.span[0]) / Math.max(1, this.span[1] - this.span[0]));

    view.addEventListener("pointerdown", (event) => {
      if (event.button || event.target.closest("button")) return;
      view.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, at(event));
      const onLine = event.target.closest(".divider");
      // When the whole picture is visible, it cannot be moved, so dragging anywhere moves the line.
      this.dragsLine = this.both && (onLine || this.scale <= this.whole * 1.001);
      if (onLine) this.part("divider").focus({ preventScroll: true });
      if (this.dragsLine && this.pointers.size === 1) line(event);
      view.classList.add("moving");
    });
    view.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      if (this.pointers.size === 2) {
        const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
        const spread = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
        this.moveBy((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
        this.zoomBy(spread(now) / spread(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
      } else if (this.dragsLine) {
        line(event);
      } else {
        this.moveBy(now[0] - before[0], now[1] - before[1]);
      }
      this.pointers.set(event.pointerId, now);
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      view.addEventListener(kind, (event) => {
        this.pointers.delete(event.pointerId);
        if (!this.pointers.size) view.classList.remove("moving");
      });
    }
    view.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), at(event));
    }, { passive: false });
    view.addEventListener("dblclick", (event) => {
      if (!event.target.closest("button")) this.scale > this.whole * 1.001 ? this.fit() : this.zoomTo(this.one * 2, at(event));
    });

    this.part("divider").addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 };
      const ends = { Home: 0, End: 1 };
      if (event.key in steps) this.setShare(this.share + steps[event.key]);
      else if (event.key in ends) this.setShare(ends[event.key]);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.part("zoom-in").addEventListener("click", () => this.zoomBy(STEP));
    this.part("zoom-out").addEventListener("click", () => this.zoomBy(1 / STEP));
    this.part("zoom-fit").addEventListener("click", () => this.fit());
    this.part("zoom-one").addEventListener("click", () => this.zoomTo(this.one));

    document.addEventListener("keydown", (event) => {
      if (view.offsetParent === null || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.closest("input, select, textarea, summary")) return;
      const arrows = { ArrowLeft: -0.02, ArrowRight: 0.02 };
      if (event.key === "+" || event.key === "=") this.zoomBy(STEP);
      else if (event.key === "-") this.zoomBy(1 / STEP);
      else if (event.key === "0") this.fit();
      else if (event.key === "1") this.zoomTo(this.one);
      else if (event.key === "b" || event.key === "B") this.hold(true);
      else if (event.key in arrows && this.both) this.setShare(this.share + arrows[event.key]);
      else return;
      event.preventDefault();
    });
    document.addEventListener("keyup", (event) => { if (event.key === "b" || event.key === "B") this.hold(false); });
    window.addEventListener("blur", () => this.hold(false));
    new ResizeObserver(() => { if (view.clientWidth) this.fitted ? this.fit() : this.draw(); }).observe(view);
  }
}

function load(image, url) {
  if (image.src === url && image.complete && image.naturalWidth) return Promise.resolve();
  return new Promise((resolve, reject) => {
    image.onload = () => resolve();
    image.onerror = () => reject(new Error("the browser cannot show this picture"));
    image.src = url;
  });
}
