// What is wrong with a page, a line for each: it is evaluated in a browser that shows the page.
var luminance = (color) => {
	const [r, g, b] = color.match(/[\d.]+/g).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
	return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
var backgroundOf = (element) => {
	for (; element; element = element.parentElement) {
		const color = getComputedStyle(element).backgroundColor;
		if (!/, 0\)$/.test(color)) return color;
	}
	return "rgb(255, 255, 255)";
};
(() => {
	const problems = [];
	const about = (e) => `<${e.tagName.toLowerCase()} class="${e.getAttribute("class") || ""}"> ${e.textContent.trim().slice(0, 40)}`;
	const shown = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility === "visible";

	const width = document.documentElement.scrollWidth;
	if (width > innerWidth) problems.push(`the page is wider than the window: ${width} > ${innerWidth}`);

	const charts = [...document.querySelectorAll(`svg:not(svg svg, [aria-hidden="true"])`)];
	if (charts.length < 3) problems.push(`there are ${charts.length} charts`);
	for (const chart of charts) {
		const box = chart.getBoundingClientRect();
		if (!shown(chart) || box.width < 200 || box.height < 64) problems.push(`a chart is not visible: ${box.width} x ${box.height}: ${about(chart)}`);
		const ids = (chart.getAttribute("aria-labelledby") || "").split(" ");
		if (chart.getAttribute("role") !== "img" || !ids.every((id) => document.getElementById(id)?.textContent.trim())) problems.push(`a chart has no name: ${about(chart)}`);
		if (!chart.matches(".round, .over-time") && [...chart.querySelectorAll("text.x")].filter(shown).length < 3) problems.push(`there is no time under ${about(chart)}`);
		for (const axis of [".x", ".y", ".flag"]) {
			const boxes = [...chart.querySelectorAll("text" + axis)].filter(shown).map((e) => e.getBoundingClientRect());
			const covers = boxes.some((a, i) => boxes.some((b, k) => k > i && a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom));
			if (covers) problems.push(`a label covers another: ${axis} of ${about(chart)}`);
		}
	}

	const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
	if (new Set(ids).size !== ids.length) problems.push("an id is there twice");

	for (const details of document.querySelectorAll("details")) details.open = true;
	if (document.documentElement.scrollWidth > innerWidth) problems.push(`with all details the page is wider than the window: ${document.documentElement.scrollWidth}`);
	for (const e of document.querySelectorAll("body *")) {
		const text = [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
		if (!text || !shown(e) || e.matches("title, desc, style")) continue;
		const style = getComputedStyle(e);
		const [a, b] = [luminance(e.ownerSVGElement ? style.fill : style.color), luminance(backgroundOf(e))].sort((a, b) => a - b);
		const contrast = (b + 0.05) / (a + 0.05);
		if (contrast < 4.5) problems.push(`the contrast is ${contrast.toFixed(2)}: ${about(e)}`);
		const height = e.getBoundingClientRect().height;
		if (height < 9) problems.push(`text is ${height}px high: ${about(e)}`);
	}
	return problems;
})();
