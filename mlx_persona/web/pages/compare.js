"use strict";
// The program keeps the state; this page shows it and sends keys. One request at a time: a key that is pressed
// while the next item is on its way would answer something that nobody has read yet.
(() => {
  const $ = (id) => document.getElementById(id);
  const SHOWN = 4; // the latest messages; earlier ones are folded away
  let state = null;
  let busy = false;
  let over = false;

  async function call(path, body) {
    const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(path, body === undefined ? {} : post);
    const value = await response.json();
    // 409: another window went on. What comes with it is where the comparison stands now.
    if (!response.ok && response.status !== 409) throw new Error(value.error);
    return value;
  }

  async function ask(path, body) {
    if (busy || over) return;
    busy = true;
    try {
      const value = await call(path, body);
      $("trouble").hidden = true;
      if (value.ended) end();
      else show(value);
    } catch (error) {
      trouble(error);
    } finally {
      busy = false;
    }
  }

  function trouble(error) {
    const gone = error instanceof TypeError || error instanceof SyntaxError;
    const how = state ? `mlx-persona compare --resume ${state.folder}` : "the same command with --resume";
    $("trouble-text").textContent = gone
      ? `The program does not answer. Nothing is lost: go on with ${how}, and open the address that it prints.`
      : `This did not work: ${error.message}`;
    $("trouble").hidden = false;
  }

  function press(key) {
    if (!state || over) return;
    if (key === "u") {
      if (state.step > 0) ask("undo", { step: state.step });
    } else if (state.result) {
      if (key === "Enter") ask("finish", {});
    } else if (allowed(key)) {
      ask("answer", { step: state.step, key });
    }
  }

  function allowed(key) {
    return (state.rate ? ["1", "2", "3", "4", "5", "s"] : ["1", "2", "t"]).includes(key);
  }

  function show(next) {
    const before = state;
    state = next;
    const count = next.result ? next.items : next.item;
    $("title").textContent = next.title;
    $("count").textContent = `${count} of ${next.items}`;
    $("progress").max = next.items;
    $("progress").value = count;
    document.body.dataset.step = next.step;
    document.title = `${count}/${next.items} · Blind comparison`;
    $("asking").hidden = Boolean(next.result);
    $("outcome").hidden = !next.result;
    if (next.result) outcome(next);
    else question(next, !before || before.result || before.item !== next.item);
    if (before) $("said").textContent = `Saved. ${count} of ${next.items} answered.`;
  }

  function question(next, fresh) {
    if (fresh) talk(next.before);
    $("question").textContent = next.rate
      ? `Reply ${next.rate.reply}: ${next.rate.by}`
      : next.real ? "Which one did the person really write?" : "Which one is more like the person?";
    next.replies.forEach((text, i) => {
      const button = $(`reply-${i + 1}`);
      const place = button.querySelector(".text");
      place.textContent = text || "(no words)";
      place.classList.toggle("none", !text);
      button.disabled = Boolean(next.rate);
      button.classList.toggle("rated", Boolean(next.rate) && next.rate.reply === i + 1);
      button.querySelector(".mark").textContent = next.rate && next.chosen === i + 1 ? "your choice" : "";
    });
    $("scale").hidden = !next.rate;
    $("tie").hidden = Boolean(next.rate);
    $("skip").hidden = !next.rate;
    $("undo").disabled = next.step === 0;
    if (fresh) lookAt();
    else document.querySelector("#asking .actions").scrollIntoView({ block: "nearest" });
    $("question").focus({ preventScroll: true });
  }

  function talk(messages) {
    const cut = Math.max(0, messages.length - SHOWN);
    const earlier = $("earlier");
    earlier.hidden = cut === 0;
    earlier.open = false;
    earlier.querySelector("summary").textContent = cut === 1 ? "1 earlier message" : `${cut} earlier messages`;
    earlier.querySelector(".talk").replaceChildren(...messages.slice(0, cut).map(bubble));
    $("talk").replaceChildren(...messages.slice(cut).map(bubble));
  }

  function bubble(message) {
    const line = document.createElement("p");
    line.className = `bubble ${message.person ? "person" : "other"}`;
    line.dir = "auto";
    const who = document.createElement("span");
    who.className = "unseen";
    who.textContent = message.person ? "The person: " : "Somebody else: ";
    line.append(who, message.text);
    return line;
  }

  // The replies matter most: where not everything fits, the page begins at the last thing that was said.
  function lookAt() {
    window.scrollTo(0, 0);
    const actions = document.querySelector("#asking .actions").getBoundingClientRect();
    const last = $("talk").lastElementChild;
    if (actions.bottom > window.innerHeight && last) {
      const head = document.querySelector(".bar").getBoundingClientRect().height;
      window.scrollTo(0, last.getBoundingClientRect().top - head - 8);
    }
  }

  function outcome(next) {
    const result = next.result;
    $("headline").textContent = result.headline;
    $("figure").hidden = result.rate === null;
    if (result.rate !== null) {
      const [low, high] = result.interval;
      const range = document.querySelector(".range").style;
      range.left = `${100 * low}%`;
      range.width = `${100 * (high - low)}%`;
      document.querySelector(".dot").style.left = `${100 * result.rate}%`;
      const captions = document.querySelectorAll("figcaption span");
      captions[0].textContent = result.ends[0];
      captions[2].textContent = result.ends[1];
    }
    $("rows").replaceChildren(...result.rows.map(([name, value]) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      const cell = document.createElement("td");
      head.scope = "row";
      head.textContent = name.trim();
      head.classList.toggle("part", name.startsWith(" "));
      cell.textContent = value;
      row.append(head, cell);
      return row;
    }));
    $("file").textContent = `${next.folder}/result.json`;
    $("headline").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  function end() {
    over = true;
    if (state.judge) $("over").textContent += " The judge is asked next: the terminal shows what it says.";
    document.querySelector("#outcome .actions").hidden = true;
    $("over").hidden = false;
    $("over").focus();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-key]");
    if (button) press(button.dataset.key);
  });
  $("again").addEventListener("click", () => ask("state"));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const onButton = event.target.closest("button, summary");
    if (event.key === "Enter" && onButton) return; // the browser presses it
    press(event.key.length === 1 ? event.key.toLowerCase() : event.key);
  });
  // At the end the program waits for this page; a page that goes away says so.
  window.addEventListener("pagehide", () => {
    if (state && state.result && !over) {
      navigator.sendBeacon("leave", new Blob(["{}"], { type: "application/json" }));
    }
  });
  ask("state");
})();
