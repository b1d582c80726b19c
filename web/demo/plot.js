// The line of tokens per second while an answer is written: one point a token, drawn at most once a frame.

const POINTS = 150;
const SMOOTH = 0.15; // weight of the newest interval
const WIDTH = 300;
const HEIGHT = 72;
const SVG = 'http://www.w3.org/2000/svg';

export class SpeedPlot {
  #svg;
  #rate;
  #area = document.createElementNS(SVG, 'path');
  #line = document.createElementNS(SVG, 'path');
  #points = [];
  #last = 0;
  #interval = 0;
  #frame = 0;

  constructor(svg, rate) {
    this.#svg = svg;
    this.#rate = rate;
    const base = document.createElementNS(SVG, 'path');
    base.setAttribute('class', 'base');
    base.setAttribute('d', `M0 ${HEIGHT - 0.5}H${WIDTH}`);
    this.#area.setAttribute('class', 'area');
    this.#line.setAttribute('class', 'line');
    svg.append(this.#area, base, this.#line);
  }

  begin() {
    this.#points = [];
    this.#last = this.#interval = 0;
  }

  token() {
    const now = performance.now();
    if (this.#last) {
      const interval = Math.max(now - this.#last, 0.01);
      this.#interval = this.#interval ? this.#interval + SMOOTH * (interval - this.#interval) : interval;
      this.#points.push(1000 / this.#interval);
      if (this.#points.length > POINTS) this.#points.shift();
      this.#frame ||= requestAnimationFrame(() => this.#draw());
    }
    this.#last = now;
  }

  /** The answer ended, with this many tokens a second from its first to its last. */
  end(rate) {
    if (this.#frame) this.#draw();
    if (!rate) return;
    this.#rate.textContent = rate.toFixed(rate < 10 ? 1 : 0);
    this.#svg.setAttribute('aria-label', `Tokens per second: ${rate.toFixed(1)} in the last answer`);
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const high = Math.max(...this.#points) * 1.15;
    const x = (index) => (this.#points.length < 2 ? 0 : (index * WIDTH) / (this.#points.length - 1));
    const y = (rate) => HEIGHT - (rate / high) * HEIGHT;
    const line = this.#points.map((rate, index) => `${x(index).toFixed(1)} ${y(rate).toFixed(1)}`).join('L');
    this.#line.setAttribute('d', `M${line}`);
    this.#area.setAttribute('d', `M0 ${HEIGHT}L${line}V${HEIGHT}Z`);
    const rate = this.#points.at(-1);
    this.#rate.textContent = rate.toFixed(rate < 10 ? 1 : 0);
  }
}
