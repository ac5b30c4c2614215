// One answer: what it looks like, its texts, and the moments on its time line.

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== ""));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";
const TINY = 100; // Pictures of fewer pixels are enlarged without blurring.
const seconds = (value) => value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)}:${(value % 60).toFixed(1).padStart(4, "0")}`;
const range = (moment) => `${moment.start.toFixed(1)}–${moment.end.toFixed(1)} s`;

export class Card {
  constructor(answer, actions) {
    this.answer = answer;
    this.actions = actions;
    this.node = element("li", {class: "card"}, ...this.face(), this.text(), this.buttons());
  }

  face() {
    const {symbol, media, title} = this.answer;
    if (symbol) return [element("div", {class: "symbol", role: "img", "aria-label": title}, symbol)];
    if (!media) return [];
    if (media.kind === "image") return [this.picture()];
    return [this.player(), ...(this.answer.moments.length && media.whole ? [this.timeline()] : [])];
  }

  picture() {
    const {media, title} = this.answer, tiny = media.width < TINY && media.height < TINY ? "tiny" : "";
    const box = element("div", {class: "picture-box"});
    if (!media.boxes.length || !media.width) {
      box.append(element("img", {src: media.url, alt: title, class: tiny, loading: "lazy"}));
      return box;
    }
    const svg = document.createElementNS(SVG, "svg");
    const part = (name, attributes) => {
      const node = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      svg.append(node);
    };
    svg.setAttribute("viewBox", `0 0 ${media.width} ${media.height}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", title);
    part("image", {href: media.url, width: media.width, height: media.height, class: tiny});
    for (const [left, top, right, bottom] of media.boxes) part("rect", {x: left, y: top, width: right - left, height: bottom - top});
    box.append(svg);
    return box;
  }

  player() {
    const {media, moments, title} = this.answer;
    this.media = element(media.kind, {src: media.url, controls: "", preload: "metadata", "aria-label": title});
    if (media.kind === "video") {
      this.media.setAttribute("playsinline", "");
      const [best] = moments;
      this.media.poster = `${media.url}/poster?at=${best && media.whole ? ((best.start + best.end) / 2).toFixed(1) : 0}`;
      this.media.addEventListener("loadedmetadata", () => this.media.classList.toggle("tiny", this.media.videoHeight < TINY));
    }
    return this.media;
  }

  timeline() {
    const {moments} = this.answer;
    const track = element("div", {class: "track"}), now = element("div", {class: "now"}), end = element("span", {}, "");
    const list = element("ul", {class: "moments"});
    const marks = moments.map((moment, index) => {
      const name = `${moment.level} ${range(moment)}`;
      const mark = element("button", {type: "button", title: `Play ${name}`, "aria-label": `Play ${name}`, class: index ? "inner" : ""});
      mark.addEventListener("click", (event) => {
        event.stopPropagation();
        this.play(moment);
      });
      const line = element("button", {type: "button"}, moment.text ? `${name}: ${moment.text}` : name);
      line.addEventListener("click", () => this.play(moment));
      if (index < 3) list.append(element("li", {}, line));
      return mark;
    });
    track.append(...marks, now);
    this.media.addEventListener("loadedmetadata", () => {
      const length = this.media.duration;
      end.textContent = seconds(length);
      moments.forEach((moment, index) => {
        marks[index].style.left = `${100 * moment.start / length}%`;
        marks[index].style.width = `${100 * (moment.end - moment.start) / length}%`;
      });
    });
    this.media.addEventListener("timeupdate", () => {
      now.style.left = `${100 * this.media.currentTime / this.media.duration}%`;
      if (this.until && this.media.currentTime >= this.until) {
        this.until = 0;
        this.media.pause();
      }
    });
    track.addEventListener("click", (event) => {
      const box = track.getBoundingClientRect();
      this.until = 0;
      this.media.currentTime = this.media.duration * (event.clientX - box.left) / box.width;
    });
    return element("div", {class: "time", role: "group", "aria-label": "Moments"}, track, element("div", {class: "ends"}, element("span", {}, "0 s"), end), list);
  }

  play(moment) {
    this.media.currentTime = moment.start;
    this.until = moment.end;
    this.media.play().catch(() => this.actions.say("The browser cannot play this file."));
  }

  text() {
    const {title, fields} = this.answer;
    const list = element("dl", {});
    for (const [name, value] of fields) list.append(element("dt", {}, name), element("dd", {title: value}, value));
    list.addEventListener("click", () => list.classList.toggle("open"));
    return element("div", {class: "text"}, element("h3", {}, title), ...(fields.length ? [list] : []));
  }

  buttons() {
    const {symbol, title, media} = this.answer;
    const row = element("div", {class: "actions"});
    if (symbol) {
      const copy = element("button", {type: "button", "aria-label": `Copy ${title}`}, "Copy");
      copy.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(symbol);
          copy.textContent = "Copied";
          this.actions.say(`${title} is in the clipboard.`);
          setTimeout(() => { copy.textContent = "Copy"; }, 1500);
        } catch {
          this.actions.say("The browser does not allow copying; select the symbol and copy it.");
        }
      });
      row.append(copy);
    }
    const similar = element("button", {type: "button", "aria-label": `Similar to ${title}`}, "Similar");
    similar.addEventListener("click", () => {
      this.actions.similar({...this.answer, url: media?.url ?? "", kind: media?.kind});
      scrollTo({top: 0});
    });
    row.append(similar);
    return row;
  }
}
