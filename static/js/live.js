// Keeps what the page shows in step with committed events.
//
// The socket makes it fast, GET /api/v1/events/ makes it true: delivery over the socket is at most
// once, so on a gap, on every (re)connection and every CATCH_UP_MS the browser asks what it has
// missed. An element says what it shows, and where to get it anew, e.g.
//   <div data-live="transition:12 desktop:d-7" data-live-src="/transitions/12/?part=live">
// What changes without an event (how late a source is) asks for a look every so often as well:
//   <div data-live="source:*" data-live-src="…" data-live-poll="15000">
// Inside, only elements with data-part and an id that changed are replaced, so that a button keeps
// the focus and a click is never lost to an update that left it alone.
"use strict";
(() => {
  const CATCH_UP_MS = 20000;
  const FIRST_RETRY_MS = 500;
  const LONGEST_RETRY_MS = 15000;
  const NOT_SIGNED_IN = 4401;
  const AUTHORISE_AGAIN = 4408;
  const TEXTS = {
    connecting: "Connecting",
    live: "Live",
    catching_up: "Catching up",
    reconnecting: "Reconnecting",
    signed_out: "Signed out",
  };

  const body = document.body;
  const indicator = document.getElementById("live-indicator");
  const start = Number(body.dataset.liveSeq);

  let caughtUpTo = start; // every event up to here has been applied
  const lastOfPool = new Map(); // pool → newest event applied
  let socket = null;
  let retries = 0;
  let isCatchingUp = false;
  let mustCatchUpAgain = false;
  let isSignedOut = false;

  function show(state) {
    if (!indicator || indicator.dataset.state === state) return;
    indicator.dataset.state = state;
    indicator.querySelector(".live-text").textContent = TEXTS[state];
  }

  function showConnection() {
    if (isSignedOut) show("signed_out");
    else if (isCatchingUp) show("catching_up");
    else if (socket && socket.readyState === WebSocket.OPEN) show("live");
    else show(retries ? "reconnecting" : "connecting");
  }

  function signedOut() {
    isSignedOut = true;
    showConnection();
    if (socket) socket.close();
  }

  // ---- events

  function apply(event) {
    const pool = String(event.pool);
    if (event.seq <= (lastOfPool.get(pool) ?? start)) return;
    lastOfPool.set(pool, event.seq);
    refreshFor(event);
    document.dispatchEvent(new CustomEvent("foredesk:event", { detail: event }));
  }

  function receive(event) {
    const seen = lastOfPool.get(String(event.pool)) ?? start;
    if (event.previous_seq > seen) catchUp();
    else apply(event);
  }

  async function catchUp() {
    if (isCatchingUp) {
      mustCatchUpAgain = true;
      return;
    }
    isCatchingUp = true;
    const patience = setTimeout(showConnection, 300);
    try {
      do {
        mustCatchUpAgain = false;
        let page;
        do {
          page = await eventsAfter(caughtUpTo);
          page.results.forEach(apply);
          caughtUpTo = page.last_seq;
        } while (page.has_more);
      } while (mustCatchUpAgain);
    } catch (error) {
      // The next interval or connection tries again.
      console.info("foredesk: not caught up:", error.message);
    } finally {
      clearTimeout(patience);
      isCatchingUp = false;
      showConnection();
    }
  }

  async function eventsAfter(seq) {
    const response = await fetch(`${body.dataset.liveEvents}?after=${seq}`, {
      headers: { Accept: "application/json" },
    });
    if (response.status === 401 || response.status === 403) signedOut();
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    return response.json();
  }

  // ---- the socket

  function connect() {
    if (isSignedOut) return;
    const address = new URL(body.dataset.liveSocket, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    socket = new WebSocket(address);
    socket.onopen = () => {
      retries = 0;
      catchUp();
      showConnection();
    };
    socket.onmessage = (message) => receive(JSON.parse(message.data));
    socket.onclose = (close) => {
      if (close.code === NOT_SIGNED_IN) return signedOut();
      if (close.code === AUTHORISE_AGAIN) return connect();
      const wait = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** retries);
      retries += 1;
      showConnection();
      // Spread out: after a restart of the server all browsers come back.
      setTimeout(connect, wait * (0.5 + Math.random() / 2));
    };
  }

  // ---- the page

  function refreshFor(event) {
    const names = new Set([
      `${event.object_type}:${event.object_id}`,
      `${event.object_type}:*`,
      "*",
    ]);
    if (event.payload.desktop) names.add(`desktop:${event.payload.desktop}`);
    for (const element of document.querySelectorAll("[data-live]")) {
      if (element.dataset.live.split(/\s+/).some((name) => names.has(name))) refresh(element);
    }
  }

  // At most one request under way for an element, and at most one every data-live-every ms.
  const pending = new WeakMap();

  async function refresh(element) {
    if (pending.has(element)) {
      pending.set(element, true);
      return;
    }
    pending.set(element, false);
    const began = performance.now();
    try {
      await load(element);
    } catch (error) {
      console.info("foredesk: not refreshed:", error.message);
    }
    const rest = Number(element.dataset.liveEvery ?? 250) - (performance.now() - began);
    setTimeout(() => {
      const isAsked = pending.get(element);
      pending.delete(element);
      if (isAsked) refresh(element);
    }, Math.max(0, rest));
  }

  async function load(element) {
    const response = await fetch(element.dataset.liveSrc, { headers: { Accept: "text/html" } });
    if (response.redirected) return signedOut();
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of fresh.querySelectorAll("[data-part]")) replace(part);
    announce(element, fresh);
  }

  function replace(part) {
    const old = document.getElementById(part.id);
    if (!old || textOf(old) === textOf(part)) return;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    const open = [...old.querySelectorAll("details[open][id]")].map((details) => details.id);
    old.replaceWith(document.importNode(part, true));
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    if (focused) document.getElementById(focused)?.focus();
  }

  // As markup, without what the server makes anew each time.
  function textOf(element) {
    const copy = element.cloneNode(true);
    copy.querySelectorAll("[name=csrfmiddlewaretoken]").forEach((token) => token.remove());
    return copy.outerHTML;
  }

  // A live region must stay in place for a screen reader to speak its new text.
  function announce(element, fresh) {
    const said = fresh.querySelector("[data-announce]")?.dataset.announce;
    const region = element.querySelector("[data-announcer]");
    if (region && said && region.textContent !== said) region.textContent = said;
  }

  for (const element of document.querySelectorAll("[data-live-poll]")) {
    setInterval(() => {
      if (!document.hidden && !isSignedOut) refresh(element);
    }, Number(element.dataset.livePoll));
  }

  connect();
  setInterval(() => {
    if (!document.hidden && !isSignedOut) catchUp();
  }, CATCH_UP_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !isSignedOut) catchUp();
  });
})();
