// Follows the system's light or dark. Runs before the first paint.
"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.bsTheme = dark.matches ? "dark" : "light";
  };
  apply();
  dark.addEventListener("change", () => {
    apply();
    document.dispatchEvent(new CustomEvent("foredesk:theme"));
  });
})();
