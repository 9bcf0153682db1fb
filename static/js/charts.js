// Draws the figures of a page with Plotly:
//   <div data-figure="/profiles/7/map.json" data-topojson="/static/vendor/topojson/">
// The server makes figures for light pages; colours are exchanged for a dark one. Plotly's own
// slider cannot be reached with the keyboard, so a real one takes its place:
//   <input type="range" data-slider-for="id-of-the-chart">, <output data-slider-output="…">,
//   <table data-slider-table="…"> with a row for each number of a step
"use strict";
(() => {
  const DARK = {
    "#182433": "#dce1e7",
    "#206bc4": "#4299e1",
    "#e6e8ec": "#3a3d42",
    "#eef1f5": "#34373c",
    "#c8d0da": "#50545b",
    "#a5b0bd": "#6b7078",
    white: "#1f1f1f",
    "rgba(32, 107, 196, 0.12)": "rgba(66, 153, 225, 0.16)",
    "rgba(32, 107, 196, 0.18)": "rgba(66, 153, 225, 0.24)",
    "rgba(32, 107, 196, 0.28)": "rgba(66, 153, 225, 0.34)",
  };
  const CONFIG = {
    displayModeBar: false,
    responsive: true,
  };
  const figures = new WeakMap(); // element → the figure as the server sent it

  const isDark = () => document.documentElement.dataset.bsTheme === "dark";
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(figure) {
    const text = JSON.stringify(figure);
    const copy = JSON.parse(text, (key, value) =>
      isDark() && typeof value === "string" && value in DARK ? DARK[value] : value,
    );
    const ink = getComputedStyle(document.body).color;
    copy.layout.font = {
      family: getComputedStyle(document.body).fontFamily,
      color: ink,
    };
    copy.layout.paper_bgcolor = "rgba(0,0,0,0)";
    copy.layout.hoverlabel = {
      bgcolor: style("--tblr-bg-surface"),
      font: { color: ink },
    };
    return copy;
  }

  async function draw(element) {
    const figure = themed(figures.get(element));
    const slider = document.querySelector(`[data-slider-for="${element.id}"]`);
    const steps = slider && figure.layout.sliders ? figure.layout.sliders[0].steps : null;
    const prefix = steps ? figure.layout.sliders[0].currentvalue : null;
    if (steps) delete figure.layout.sliders;
    if (figure.layout.title) takeTitle(element, figure.layout);
    await Plotly.react(element, figure.data, figure.layout, {
      ...CONFIG,
      topojsonURL: element.dataset.topojson,
    });
    if (steps) follow(element, slider, steps, prefix);
    element.dataset.state = "drawn";
  }

  // The page has a heading of its own; where the numbers come from goes below the chart.
  function takeTitle(element, layout) {
    const source = document.querySelector(`[data-source-of~="${element.id}"]`);
    if (source) source.textContent = layout.title.subtitle?.text ?? "";
    delete layout.title;
    layout.margin = { ...layout.margin, t: layout.annotations?.length ? 28 : 12 };
  }

  function follow(element, slider, steps, prefix) {
    const output = document.querySelector(`[data-slider-output="${element.id}"]`);
    slider.max = steps.length - 1;
    const show = () => {
      const step = steps[slider.value];
      const label = `${step.label}${prefix.suffix}`;
      output.textContent = label;
      slider.setAttribute("aria-valuetext", label);
      tell(element, step.table ?? []);
      Plotly.update(element, ...step.args);
    };
    slider.oninput = show;
    show();
  }

  // The same numbers as a table, one row for each; a row without a number is not shown.
  function tell(element, numbers) {
    const rows = document.querySelectorAll(`[data-slider-table="${element.id}"] tbody tr`);
    rows.forEach((row, i) => {
      if (numbers[i] === undefined) return;
      const words = numbers[i] ?? row.dataset.unsaid;
      row.lastElementChild.textContent = words ?? "";
      row.hidden = words === undefined;
    });
  }

  async function load(element) {
    try {
      const response = await fetch(element.dataset.figure, {
        headers: { Accept: "application/json" },
      });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      figures.set(element, (await response.json()).figure);
      await draw(element);
    } catch (error) {
      element.dataset.state = "failed";
      console.error(`foredesk: ${element.dataset.figure} not drawn:`, error);
    }
  }

  // A chart in a closed tab has no size yet: it is loaded when it comes into view.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      load(entry.target);
    }
  });
  const charts = document.querySelectorAll("[data-figure]");
  charts.forEach((element) => seen.observe(element));

  document.addEventListener("foredesk:theme", () => {
    charts.forEach((element) => figures.has(element) && draw(element));
  });

  // Tabs: a radio group in the page, no script of a framework.
  for (const tabs of document.querySelectorAll("[data-tabs]")) {
    tabs.addEventListener("change", () => {
      for (const choice of tabs.querySelectorAll("input[type=radio]")) {
        document.getElementById(choice.value).hidden = !choice.checked;
      }
    });
  }
})();
