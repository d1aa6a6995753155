// What is wrong with the status page for who cannot see it, or has no mouse, a line for each.
(() => {
	const problems = [];
	const about = (e) => `<${e.tagName.toLowerCase()} class="${e.getAttribute("class") || ""}"> ${e.textContent.trim().slice(0, 40)}`;
	const one = (selector) => {
		const n = document.querySelectorAll(selector).length;
		if (n !== 1) problems.push(`there are ${n} of ${selector}`);
	};
	for (const selector of ["main", "h1", "body > header", "body > footer", "html[lang]", "head > title"]) one(selector);
	if (document.querySelector("[data-at]")) one("[aria-live]");
	if (!document.title.trim()) problems.push("the page has no title");
	let level = 0;
	for (const h of document.querySelectorAll("h1, h2, h3, h4")) {
		const next = Number(h.tagName[1]);
		if (next > level + 1) problems.push(`a heading is left out before ${about(h)}`);
		level = next;
	}
	for (const section of document.querySelectorAll("main section, [role=region]")) {
		const name = section.getAttribute("aria-label") || document.getElementById(section.getAttribute("aria-labelledby"))?.textContent.trim();
		if (!name) problems.push(`a region has no name: ${about(section)}`);
	}
	for (const input of document.querySelectorAll("input, button, a")) {
		if (!input.labels?.length && !input.textContent.trim()) problems.push(`a control has no name: ${input.outerHTML.slice(0, 60)}`);
		const box = input.getBoundingClientRect();
		if (input.matches("input, button") && Math.min(box.width, box.height) < 24) problems.push(`a control is ${box.width} x ${box.height}: ${about(input)}`);
	}
	for (const table of document.querySelectorAll("table")) {
		if (!table.caption?.textContent.trim()) problems.push(`a table has no caption: ${about(table)}`);
		if (!table.querySelector("tbody tr")) problems.push(`a table is empty: ${about(table)}`);
		for (const th of table.querySelectorAll("th")) if (!th.scope) problems.push(`a heading of a table has no scope: ${about(th)}`);
		for (const row of table.querySelectorAll("tbody tr")) if (row.querySelectorAll("th[scope=row]").length !== 1) problems.push(`a row has no heading: ${about(row)}`);
	}
	for (const scroll of document.querySelectorAll("*")) {
		const style = getComputedStyle(scroll);
		if (/auto|scroll/.test(style.overflowX + style.overflowY) && scroll.scrollHeight > scroll.clientHeight + 1 && scroll.tabIndex < 0) problems.push(`it scrolls, but not with the keyboard: ${about(scroll)}`);
	}
	for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) problems.push(`it changes the order of the keyboard: ${about(e)}`);
	for (const state of document.querySelectorAll(".state, .trouble:not([hidden])")) if (!/[a-z]{3}/.test(state.textContent)) problems.push(`only a colour says how it is: ${about(state)}`);
	for (const e of document.querySelectorAll("[style], body style, script:not([src])")) problems.push(`it is inline: ${about(e)}`);
	return problems;
})();
