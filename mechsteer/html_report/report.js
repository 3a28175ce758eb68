"use strict";
(() => {
  const make = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  // What the page holds, as data: base64 of gzip of JSON.
  const unpack = async (root) => {
    const held = root.querySelector(":scope > script[type='application/gzip']");
    const bytes = Uint8Array.from(atob(held.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  // Previous, next, and where one is.
  const pager = (root, size, what, draw) => {
    const [back, on] = root.querySelectorAll("[data-turn]"), said = root.querySelector("output");
    let first = 0, rows = [];
    const show = () => {
      const last = Math.min(first + size, rows.length);
      draw(rows.slice(first, last));
      said.textContent = rows.length > size ? `${first + 1} to ${last} of ${rows.length} ${what}` : `${rows.length} ${what}`;
      back.disabled = first === 0;
      on.disabled = last >= rows.length;
      back.hidden = on.hidden = rows.length <= size;
    };
    back.onclick = () => { first = Math.max(0, first - size); show(); };
    on.onclick = () => { first += size; show(); };
    return (found) => { rows = found; first = 0; show(); };
  };

  const soon = (act) => {
    let waiting;
    return () => { clearTimeout(waiting); waiting = setTimeout(act, 120); };
  };

  const shown = (value) => {
    if (value === null) return "–";
    if (typeof value !== "number") return value;
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  };

  const table = async (root) => {
    const heads = [...root.querySelectorAll("thead th")], body = root.querySelector("tbody");
    const search = root.querySelector("input"), size = 25;
    const all = (await unpack(root)).rows, numeric = heads.map((head) => head.classList.contains("number"));
    const texts = all.map((row) => row.map(shown).join("\n").toLowerCase());
    let order = all.map((_, place) => place), column = -1, sign = 1;
    const turn = pager(root, size, "rows", (places) => body.replaceChildren(...places.map((place) => {
      const line = make("tr");
      all[place].forEach((value, at) => line.append(make("td", shown(value), numeric[at] ? "number" : "")));
      return line;
    })));
    const compare = (a, b) => {
      const [x, y] = [all[a][column], all[b][column]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (numeric[column] ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true })) || a - b;
    };
    const update = () => {
      const wanted = search.value.trim().toLowerCase();
      order = all.map((_, place) => place).filter((place) => texts[place].includes(wanted));
      if (column >= 0) order.sort(compare);
      turn(order);
    };
    heads.forEach((head, place) => {
      head.querySelector("button").onclick = () => {
        sign = head.ariaSort === "ascending" ? -1 : 1;
        column = place;
        heads.forEach((other) => { other.ariaSort = "none"; });
        head.ariaSort = sign > 0 ? "ascending" : "descending";
        update();
      };
    });
    search.oninput = soon(update);
    root.querySelector(".controls").hidden = all.length < 2;
    update();
    root.dataset.ready = "yes";
  };

  // Words that are new and gone, by the longest common subsequence of what lies between the common ends.
  const pieces = (text) => text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]/gu) ?? [];
  const changes = (before, after) => {
    const made = document.createDocumentFragment();
    let old = pieces(before), fresh = pieces(after), start = 0, end = 0;
    while (start < Math.min(old.length, fresh.length) && old[start] === fresh[start]) start += 1;
    while (end < Math.min(old.length, fresh.length) - start && old.at(-1 - end) === fresh.at(-1 - end)) end += 1;
    const head = fresh.slice(0, start).join(""), tail = fresh.slice(fresh.length - end).join("");
    old = old.slice(start, old.length - end);
    fresh = fresh.slice(start, fresh.length - end);
    if (head) made.append(head);
    middle(old, fresh).forEach(([kind, text]) => made.append(kind ? make(kind, text) : text));
    if (tail) made.append(tail);
    return made;
  };
  const middle = (old, fresh) => {
    const n = old.length, m = fresh.length;
    const whole = [["del", old.join("")], ["ins", fresh.join("")]].filter(([, text]) => text);
    if (n * m === 0 || n * m > 400000) return whole;
    const best = new Uint16Array((n + 1) * (m + 1));
    for (let a = n - 1; a >= 0; a -= 1) {
      for (let b = m - 1; b >= 0; b -= 1) {
        const at = a * (m + 1) + b;
        best[at] = old[a] === fresh[b] ? best[at + m + 2] + 1 : Math.max(best[at + m + 1], best[at + 1]);
      }
    }
    const found = [];
    let a = 0, b = 0;
    const add = (kind, text) => {
      const last = found.at(-1);
      if (last && last[0] === kind) last[1] += text; else found.push([kind, text]);
    };
    while (a < n || b < m) {
      if (a < n && b < m && old[a] === fresh[b]) { add("", fresh[b]); a += 1; b += 1; }
      else if (b >= m || (a < n && best[(a + 1) * (m + 1) + b] >= best[a * (m + 1) + b + 1])) { add("del", old[a]); a += 1; }
      else { add("ins", fresh[b]); b += 1; }
    }
    return found;
  };

  const answers = async (root) => {
    const data = await unpack(root), size = 10;
    const search = root.querySelector("input"), choice = root.querySelector("select");
    const blocks = root.querySelector("[data-blocks]");
    const texts = data.prompts.map((prompt, place) => [prompt, ...data.answers[place], ...data.said[place]].join("\n").toLowerCase());
    const kinds = {
      all: () => true,
      changed: (place) => data.answers[place].some((answer, at) => answer !== data.answers[place][data.against[at]]),
      better: (place) => data.good[place].some((good, at) => good === true && data.good[place][data.against[at]] === false),
      worse: (place) => data.good[place].some((good, at) => good === false && data.good[place][data.against[at]] === true),
    };
    const block = (place) => {
      const whole = make("article"), side = make("div", undefined, "side");
      whole.append(make("div", data.prompts[place], "prompt"), side);
      data.names.forEach((name, at) => {
        const cell = make("div", undefined, "answer"), text = make("div", undefined, "text");
        const good = data.good[place][at], answer = data.answers[place][at];
        const other = data.against[at];
        if (at === other) text.textContent = answer; else text.append(changes(data.answers[place][other], answer));
        cell.append(make("h3", name), make("p", data.said[place][at], good === null ? "mark" : good ? "mark-good" : "mark-bad"), text);
        side.append(cell);
      });
      return whole;
    };
    const turn = pager(root, size, "prompts", (places) => blocks.replaceChildren(...places.map(block)));
    const update = () => {
      const wanted = search.value.trim().toLowerCase(), fits = kinds[choice.value];
      turn(data.prompts.map((_, place) => place).filter((place) => fits(place) && texts[place].includes(wanted)));
    };
    search.oninput = soon(update);
    choice.onchange = update;
    root.querySelector(".controls").hidden = false;
    update();
    root.dataset.ready = "yes";
  };

  const heat = async (root) => {
    const data = await unpack(root), panel = root.querySelector(".examples");
    root.querySelectorAll("[data-cell]").forEach((cell) => {
      const show = () => panel.replaceChildren(...(data[cell.dataset.cell] ?? []).map((example) => {
        const group = make("div", undefined, "group");
        Object.entries(example).forEach(([what, text]) => {
          const line = make("p");
          line.append(make("b", `${what}: `), text);
          group.append(line);
        });
        return group;
      }));
      cell.onmouseenter = cell.onfocus = cell.onclick = show;
    });
    root.dataset.ready = "yes";
  };

  const closed = () => document.querySelectorAll("details:not([open])");
  addEventListener("beforeprint", () => closed().forEach((part) => { part.dataset.folded = "yes"; part.open = true; }));
  addEventListener("afterprint", () => document.querySelectorAll("[data-folded]").forEach((part) => {
    part.open = false;
    delete part.dataset.folded;
  }));

  document.querySelectorAll("[data-table]").forEach(table);
  document.querySelectorAll("[data-answers]").forEach(answers);
  document.querySelectorAll("[data-heat]").forEach(heat);
})();
