// Runs in a page of an attacker, who knows where the admin API and the status page are, and tries to give orders and to read.
async (admin, ops) => {
	const read = [];
	let tried = 0;
	const within = (promise) => Promise.race([promise, new Promise((_, no) => setTimeout(() => no(new Error("late")), 5000))]);
	const attempt = async (what, run) => {
		tried++;
		try {
			const found = await within(run());
			if (found) read.push(what + ": " + String(found).slice(0, 200));
		} catch {
			// It was refused, which is what the page is about.
		}
	};
	const api = admin + "/api/v1";
	const drain = JSON.stringify({ state: "drain" });
	// What is read is no refusal.
	const told = async (response) => response.type !== "opaque" && response.ok && (await response.text());

	for (const mode of ["cors", "no-cors", "same-origin"]) {
		for (const credentials of ["include", "omit"]) {
			await attempt(`look, ${mode}`, async () => told(await fetch(api + "/status", { mode, credentials })));
			await attempt(`kick, ${mode}`, async () => told(await fetch(api + "/users/ada/kick", { method: "POST", mode, credentials, body: "{}" })));
			await attempt(`kick as JSON, ${mode}`, async () => told(await fetch(api + "/users/ada/kick", { method: "POST", mode, credentials, body: "{}", headers: { "Content-Type": "application/json" } })));
			await attempt(`drain, ${mode}`, async () => told(await fetch(api + "/backends/dovecot-backend-0", { method: "PATCH", mode, credentials, body: drain, headers: { "Content-Type": "application/json" } })));
		}
	}
	await attempt("override", async () => told(await fetch(api + "/backends/dovecot-backend-0", { method: "POST", mode: "no-cors", body: drain, headers: { "X-HTTP-Method-Override": "PATCH" } })));
	await attempt("evacuate", async () => told(await fetch(api + "/backends/dovecot-backend-0/evacuation", { method: "PUT", body: "{}" })));
	await attempt("beacon", async () => {
		navigator.sendBeacon(api + "/users/ada/move", "{}");
		return false;
	});
	await attempt("beacon as a form", async () => {
		navigator.sendBeacon(api + "/users/ada/move", new URLSearchParams({ to: "dovecot-backend-1" }));
		return false;
	});

	const loaded = (element, where) => new Promise((yes) => {
		element.onload = () => yes(element);
		element.onerror = () => yes(null);
		where.append(element);
	});
	for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
		await attempt("form, " + enctype, async () => {
			const frame = document.createElement("iframe");
			frame.name = "frame-" + tried;
			document.body.append(frame);
			const form = document.createElement("form");
			Object.assign(form, { method: "post", action: api + "/users/ada/kick", enctype, target: frame.name });
			const input = document.createElement("input");
			Object.assign(input, { name: '{"note":"', value: '"}' });
			form.append(input);
			document.body.append(form);
			const done = new Promise((yes) => { frame.onload = yes; });
			form.submit();
			await done;
			const text = frame.contentDocument?.body?.innerText || "";
			return text.includes('"sessions"') && text;
		});
	}
	await attempt("script", async () => {
		window.stolen = undefined;
		await loaded(Object.assign(document.createElement("script"), { src: api + "/status" }), document.head);
		return window.stolen;
	});
	await attempt("style", async () => {
		const sheet = await loaded(Object.assign(document.createElement("link"), { rel: "stylesheet", href: api + "/journal" }), document.head);
		return sheet && sheet.sheet && sheet.sheet.cssRules.length;
	});
	await attempt("image", async () => loaded(Object.assign(new Image(), { src: api + "/users/ada" }), document.body));
	for (const where of [api + "/status", ops + "/", ops + "/user"]) {
		await attempt("frame of " + where, async () => {
			const frame = await loaded(Object.assign(document.createElement("iframe"), { src: where }), document.body);
			const text = frame.contentDocument?.body?.innerText || "";
			return (text.includes('"backends"') || text.includes("Backends")) && text;
		});
	}
	await attempt("page", async () => told(await fetch(ops + "/")));
	await attempt("metrics", async () => told(await fetch(ops + "/metrics")));
	await attempt("user", async () => told(await fetch(ops + "/user", { method: "POST", body: new URLSearchParams({ token: "x", user: "ada" }) })));
	await attempt("events", () => new Promise((yes, no) => {
		const source = new EventSource(ops + "/events");
		source.onmessage = (e) => { source.close(); yes(e.data); };
		source.onopen = () => { source.close(); yes("it is open"); };
		source.onerror = () => { source.close(); no(); };
	}));
	await attempt("socket", () => new Promise((yes, no) => {
		const socket = new WebSocket(admin.replace("http", "ws") + "/api/v1/status");
		socket.onopen = () => yes("it is open");
		socket.onerror = no;
	}));
	return { Read: read, Tried: tried };
}
