// What Material leaves to who reads by the keyboard or hears the page.
addEventListener("load", () => {
  const pictures = [...document.querySelectorAll(".md-typeset p:has(> img)")].filter(place => place.scrollWidth > place.clientWidth);
  const places = document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap");
  for (const place of [...places, ...pictures]) place.tabIndex = 0;
  document.querySelector("[data-md-component=search]")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, place) => nav.setAttribute("aria-label", `Code ${place + 1}`));
});
