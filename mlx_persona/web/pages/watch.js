"use strict";
// The program draws the report; this page asks for it now and then, and puts in what changed. Whatever did not change
// stays the very same element: what is open stays open, what is selected selected, and nothing flickers.
(() => {
  const $ = (id) => document.getElementById(id);
  const COLOURS = { live: "c-d0", finished: "c-kept", stopped: "c-bad", died: "c-bad", failed: "c-bad" };
  const PATIENCE = 60; // seconds for an answer, and at most between two questions to a program that gives none
  let version = 0;
  let state = "";
  let over = false;
  let asking = false;
  let every = 1;
  let misses = 0;
  let asked = "";
  let timer = 0;

  async function ask() {
    if (asking || over) return;
    asking = true;
    clearTimeout(timer);
    let next = null;
    try {
      next = await answer();
      misses = 0;
    } catch (error) {
      misses += 1;
      trouble(error);
    }
    asking = false;
    if (next) show(next);
    if (!over) timer = setTimeout(ask, 1000 * Math.min(PATIENCE, every * 2 ** misses));
  }

  async function answer() {
    const response = await fetch(`state?have=${version}`, { signal: AbortSignal.timeout(1000 * PATIENCE) });
    const value = await response.json();
    if (!response.ok) throw new Error(value.error);
    return value;
  }

  function trouble(error) {
    const told = error instanceof TypeError || error.name === "TimeoutError" || error.name === "SyntaxError"
      ? "The program that shows this page does not answer. The training does not depend on it. " +
        "To watch on: mlx-persona watch, and open the address that it prints."
      : `The run cannot be read: ${error.message}.`;
    $("trouble-text").textContent = asked ? `${told} What is below is as of ${asked}.` : told;
    $("trouble").hidden = false;
    $("pill").className = "state c-bad";
    $("state").textContent = "not connected";
    state = "";
  }

  function show(next) {
    $("trouble").hidden = true;
    every = next.every;
    over = next.over;
    asked = new Date().toLocaleTimeString();
    const waiting = next.state === "waiting";
    const counted = !waiting && next.updates !== null;
    const count = counted ? next.updates + (next.planned === null ? "" : ` of ${next.planned}`) : "";
    $("pill").className = `state ${COLOURS[next.state] || ""}`;
    $("state").textContent = next.state;
    $("name").textContent = waiting ? "" : next.name;
    $("count").textContent = count && `update ${count}`;
    $("left").textContent = next.left !== null ? `about ${spoken(next.left)} left`
      : over && next.state !== "finished" ? "load anew once resumed" : "";
    $("when").textContent = next.state === "finished" ? `final, as of ${asked}` : `as of ${asked}`;
    $("progress").hidden = !counted || next.planned === null;
    $("progress").max = next.planned || 1;
    $("progress").value = next.updates || 0;
    $("awaited").textContent = next.name;
    $("waiting").hidden = !waiting;
    $("report").hidden = waiting;
    document.title = [waiting ? "waiting" : over ? next.state : count, next.name].filter(Boolean).join(" · ");
    if (next.state !== state) $("said").textContent = `${next.name}: ${next.state}`;
    state = next.state;
    if (next.body !== undefined) {
      version = next.version;
      replace(next.body);
    }
  }

  function spoken(seconds) {
    if (seconds < 90) return `${Math.max(5, 5 * Math.round(seconds / 5))} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  function replace(body) {
    const fresh = new DOMParser().parseFromString(`<main id="report">${body}</main>`, "text/html").body.firstChild;
    // What is read now stays where it is on the screen, whatever comes or goes above it.
    const edge = document.querySelector(".bar").getBoundingClientRect().bottom;
    const seen = window.scrollY > 0
      && [...$("report").querySelectorAll("h1, h2, h3, p, summary, tr")].find((e) => e.getBoundingClientRect().top >= edge);
    const before = seen && seen.getBoundingClientRect().top;
    become($("report"), fresh);
    if (seen && seen.isConnected) window.scrollBy(0, seen.getBoundingClientRect().top - before);
  }

  // Elements with a name of their own are found again wherever they stand; all others by their place.
  function named(node) {
    const name = { SECTION: "h2", FIGURE: "h3", DETAILS: "summary" }[node.nodeName];
    if (!name) return "";
    const title = node.querySelector(name);
    return `${node.nodeName} ${title ? title.textContent : node.getAttribute("aria-label")}`;
  }

  function partner(at, child) {
    const name = named(child);
    if (!name) return at && !named(at) && at.nodeName === child.nodeName ? at : null;
    let found = at;
    while (found && named(found) !== name) found = found.nextSibling;
    return found;
  }

  function become(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.data = fresh.data;
      return;
    }
    if (old.nodeName === "svg") {
      old.replaceWith(fresh);
      return;
    }
    for (const { name, value } of fresh.attributes) if (name !== "open") old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    let at = old.firstChild;
    const drop = () => {
      const next = at.nextSibling;
      at.remove();
      at = next;
    };
    for (const child of [...fresh.childNodes]) {
      const same = partner(at, child);
      if (same) {
        while (at !== same) drop();
        at = same.nextSibling;
        become(same, child);
      } else {
        old.insertBefore(child, at);
      }
    }
    while (at) drop();
  }

  // A page in the background is slowed down by the browser; who comes back to it sees what is now.
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  ask();
})();
