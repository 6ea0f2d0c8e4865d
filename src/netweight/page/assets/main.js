// The page: its sections, the language and the colours.

import { chartsOnPaper, redrawCharts } from "./charts.js";
import { decodeSection } from "./data.js";
import { make } from "./elements.js";
import { sectionPart } from "./section.js";
import { chooseLanguage, currentLanguage, say } from "./text.js";

export function startPage() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const sections = data.sections.map(decodeSection);
  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  let dark = wantsDark.matches;
  let onPaper = false;
  const shade = make("button", { type: "button", click: () => setDark(!dark) });

  /** The colours, without building anything anew: what is open stays open. */
  function colours() {
    document.documentElement.dataset.theme = dark && !onPaper ? "dark" : "light";
    shade.textContent = dark ? say("light") : say("dark");
    redrawCharts();
  }

  function setDark(wanted) {
    dark = wanted;
    colours();
  }

  function build() {
    const other = currentLanguage() === "zh" ? "en" : "zh";
    const language = make("button", {
      type: "button", text: other === "en" ? "English" : "中文",
      click: () => {
        chooseLanguage(other);
        build();
      },
    });
    const top = make("header", { class: "top" }, make("strong", { text: `netweight ${data.netweight}` }), language, shade);
    document.body.replaceChildren(document.getElementById("data"), top, make("main", {}, ...sections.map(sectionPart)));
    colours();
  }

  function printed(now) {
    onPaper = now;
    colours();
    chartsOnPaper(now);
  }

  chooseLanguage(navigator.language.startsWith("zh") ? "zh" : "en");
  wantsDark.addEventListener("change", (event) => setDark(event.matches));
  addEventListener("beforeprint", () => printed(true));
  addEventListener("afterprint", () => printed(false));
  addEventListener("resize", redrawCharts);
  build();
  const drawn = () => {
    document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds since it was opened
  };
  requestAnimationFrame(() => requestAnimationFrame(drawn)); // behind the frame in which pictures and rows are drawn
}
