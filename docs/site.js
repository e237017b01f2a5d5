// What Material leaves to who reads by the keyboard or hears the page.
addEventListener("load", () => {
  for (const place of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap")) place.tabIndex = 0;
  document.querySelector("[data-md-component=search]")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, place) => nav.setAttribute("aria-label", `Code ${place + 1}`));
});
