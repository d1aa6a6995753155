"use strict";
// Keeps the page live: sections are replaced by what the director sends, which it has drawn; time that runs down is counted here.
(() => {
	const silence = 6000; // of a director that says something every two seconds
	const link = document.getElementById("link");
	let ahead = Number(document.body.dataset.at) - Date.now(); // of the director's clock
	let heard = Date.now();
	let asking = null; // of a page that is loaded now and then, because nothing is sent
	let lost = false;

	const left = (seconds) => {
		if (seconds < 60) return `${seconds} s`;
		const two = (n) => String(n).padStart(2, "0");
		if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
		return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} min`;
	};

	const count = () => {
		for (const e of document.querySelectorAll("[data-until]")) {
			const text = left(Math.max(0, Math.ceil((Number(e.dataset.until) - Date.now() - ahead) / 1000)));
			if (e.textContent !== text) e.textContent = text;
		}
	};

	const say = (text) => {
		if (link.textContent !== text) link.textContent = text;
		link.hidden = text === "";
	};

	// replace keeps what somebody reads where it is.
	const replace = (id, html) => {
		const section = document.getElementById(id);
		if (!section || section.innerHTML === html) return;
		const scroll = section.querySelector(".scroll");
		const [top, side] = scroll ? [scroll.scrollTop, scroll.scrollLeft] : [0, 0];
		const focused = scroll !== null && scroll === document.activeElement;
		section.innerHTML = html;
		const again = section.querySelector(".scroll");
		if (again) {
			again.scrollTop = top;
			again.scrollLeft = side;
			if (focused) again.focus({ preventScroll: true });
		}
	};

	const news = (at, generation, grave) => {
		heard = Date.now();
		ahead = at - heard;
		lost = false;
		document.body.classList.remove("old");
		document.body.dataset.generation = generation;
		document.title = (grave ? "✕ " : "") + document.title.replace(/^✕ /, "");
		count();
	};

	const watch = () => {
		const events = new EventSource("/events");
		events.onmessage = (message) => {
			const event = JSON.parse(message.data);
			for (const [id, html] of Object.entries(event.sections)) replace(id, html);
			news(event.at, event.generation, event.grave);
			document.body.dataset.live = "yes";
			say("");
			if (asking) clearInterval(asking);
			asking = null;
		};
		events.onerror = () => {
			delete document.body.dataset.live;
			if (events.readyState !== EventSource.CLOSED) return; // it tries again by itself
			if (!asking) asking = setInterval(load, 5000);
			setTimeout(watch, 15000);
		};
	};

	// load is for when as many watch as may.
	const load = async () => {
		try {
			const answer = await fetch("/");
			if (!answer.ok) return;
			const page = new DOMParser().parseFromString(await answer.text(), "text/html");
			for (const id of ["summary", "wrong", "ring", "backends", "traffic", "moves", "others"]) {
				const section = page.getElementById(id);
				if (section) replace(id, section.innerHTML);
			}
			news(Number(page.body.dataset.at), page.body.dataset.generation, page.title.startsWith("✕"));
			say("");
		} catch {
			// the clock says so
		}
	};

	setInterval(() => {
		count();
		if (Date.now() - heard < silence * (asking ? 2 : 1)) return;
		document.body.classList.add("old");
		if (!lost) say(`The connection to the director is lost. What is below is as it was at ${new Date(heard + ahead).toISOString().slice(11, 19)} UTC.`);
		lost = true;
	}, 250);
	count();
	watch();
})();
