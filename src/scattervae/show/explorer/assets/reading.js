"use strict";
// Files that people drop: archive csv, or rows exported as JSON. Each star: {source_id, bp, rp, bp_errors, rp_errors, g_flux}.
const Reading = (() => {
  const NAMES = {
    source_id: ["source_id", "ids", "object_id", "designation"],
    g_flux: ["phot_g_mean_flux"],
    g_mag: ["phot_g_mean_mag"],
    bp: ["bp_coefficients"], rp: ["rp_coefficients"],
    bp_errors: ["bp_coefficient_errors"], rp_errors: ["rp_coefficient_errors"],
    joined: ["coeff", "coeffs"], joined_errors: ["coeff_error", "coeff_errs"],
  };

  function csvRows(text) {
    const rows = [];
    let row = [], cell = "", quoted = false;
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if (quoted) {
        if (c === '"') { if (text[i + 1] === '"') { cell += c; i++; } else quoted = false; } else cell += c;
      } else if (c === '"') quoted = true;
      else if (c === ",") { row.push(cell); cell = ""; }
      else if (c === "\n" || c === "\r") { if (cell || row.length) { row.push(cell); rows.push(row); } row = []; cell = ""; }
      else cell += c;
    }
    if (cell || row.length) { row.push(cell); rows.push(row); }
    return rows.filter((r) => !r[0].startsWith("#"));
  }

  function fromCsv(text) {
    const [header, ...rows] = csvRows(text);
    if (!header || !rows.length) throw new Error("the file has no rows; expected a header and a row for each star");
    return rows.map((row) => Object.fromEntries(header.map((name, i) => [name.trim().toLowerCase(), row[i]])));
  }

  function fromJson(text) {
    // whole numbers too long for a float64, such as source_ids, are kept as text; NaN is no JSON
    const safe = text.replace(/([:\[,\s])(\d{15,})(?=\s*[,\]}])/g, '$1"$2"').replace(/([:\[,\s])(?:NaN|-?Infinity)(?=\s*[,\]}])/g, "$1null");
    let value;
    try { value = JSON.parse(safe); } catch { value = safe.trim().split(/\n+/).map((line) => JSON.parse(line)); }
    const list = (v) => (Array.isArray(v) ? v : Object.values(v));
    let rows;
    if (Array.isArray(value)) rows = value;
    else if (Object.values(value).some((v) => v !== null && typeof v === "object" && list(v).some((x) => Array.isArray(x))) || !("bp_coefficients" in value || "coeff" in value)) {
      const names = Object.keys(value), n = names.length ? list(value[names[0]]).length : 0;
      rows = Array.from({ length: n }, (_, i) => Object.fromEntries(names.map((name) => [name, list(value[name])[i]])));
    } else rows = [value];
    return rows.map((row) => Object.fromEntries(Object.entries(row).map(([k, v]) => [k.toLowerCase(), v])));
  }

  function numbers(cell) {
    if (cell === null || cell === undefined || cell === "" || cell === "null") return null;
    const list = typeof cell === "string" ? cell.replace(/[()\[\]{}"]/g, " ").split(/[\s,;]+/).filter(Boolean).map(Number) : Array.from(cell, (v) => (v === null ? NaN : Number(v)));
    return list.some((v) => Number.isFinite(v) && v !== 0) ? list : null;
  }

  function number(cell) {
    const value = cell === null || cell === undefined || cell === "" ? NaN : Number(cell);
    return value > 0 ? value : NaN;
  }

  /** Stars of a file; an error says what was found and what is expected. */
  function stars(text, basis, zeroPoint) {
    const start = text.trimStart()[0];
    const rows = start === "{" || start === "[" ? fromJson(text) : fromCsv(text);
    const found = rows.map((row, i) => {
      const get = (what) => row[NAMES[what].find((name) => row[name] !== undefined)];
      const star = { source_id: String(get("source_id") ?? `row ${i + 1}`).replace(/^Gaia DR\d+ /, "") };
      for (const name of ["bp", "rp", "bp_errors", "rp_errors"]) star[name] = numbers(get(name));
      const joined = numbers(get("joined")), errors = numbers(get("joined_errors"));
      if (joined) {
        star.bp = joined.slice(0, basis.n_bp); star.rp = joined.slice(basis.n_bp);
        if (errors) { star.bp_errors = errors.slice(0, basis.n_bp); star.rp_errors = errors.slice(basis.n_bp); }
      }
      const mag = Number(get("g_mag") ?? NaN);
      star.g_flux = number(get("g_flux"));
      star.g_from = "the file";
      if (!(star.g_flux > 0) && get("g_mag") !== "" && Number.isFinite(mag)) star.g_flux = 10 ** (0.4 * (zeroPoint - mag));
      return star;
    });
    if (!found.some((star) => star.bp || star.rp)) {
      throw new Error(`no coefficients in columns ${Object.keys(rows[0]).slice(0, 6).join(", ")}; expected bp_coefficients, bp_coefficient_errors and the same of rp`);
    }
    for (const star of found) {
      for (const [band, n] of [["bp", basis.n_bp], ["rp", basis.n_rp]]) {
        for (const name of [band, `${band}_errors`]) {
          if (star[name] && star[name].length !== n) throw new Error(`star ${star.source_id}: ${star[name].length} numbers in ${name}; the model takes ${basis.text}`);
        }
      }
    }
    return found;
  }
  return { stars };
})();
