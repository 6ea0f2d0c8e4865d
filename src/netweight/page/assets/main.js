// The page: its sections, the language and the colours.

import { redrawCharts } from "./charts.js";
import { decodeSection } from "./data.js";
import { make } from "./elements.js";
import { sectionPart } from "./section.js";
import { chooseLanguage, currentLanguage, say } from "./text.js";

export function startPage() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const sections = data.sections.map(decodeSection);
  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  let dark = wantsDark.matches;

  function build() {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    const top = make(
      "header",
      { class: "top" },
      make("strong", { text: `netweight ${data.netweight}` }),
      make("button", {
        type: "button", text: currentLanguage() === "zh" ? "English" : "中文",
        click: () => {
          chooseLanguage(currentLanguage() === "zh" ? "en" : "zh");
          build();
        },
      }),
      make("button", {
        type: "button", text: dark ? say("light") : say("dark"),
        click: () => {
          dark = !dark;
          build();
        },
      }),
    );
    document.body.replaceChildren(document.getElementById("data"), top, make("main", {}, ...sections.map(sectionPart)));
  }

  chooseLanguage(navigator.language.startsWith("zh") ? "zh" : "en");
  wantsDark.addEventListener("change", (event) => {
    dark = event.matches;
    build();
  });
  addEventListener("resize", redrawCharts);
  build();
  document.documentElement.dataset.ready = "true";
}
