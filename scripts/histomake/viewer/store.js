// Reads encoded tiles straight out of the shards of a slide store, by HTTP range.
"use strict";

const ABSENT = 0xffffffffffffffffn;
const CRC_BYTES = 4;
// APP14 "Adobe", transform 0: the components are R, G, B, and the browser must not convert them.
const ADOBE_RGB = [0xff, 0xee, 0x00, 0x0e, 0x41, 0x64, 0x6f, 0x62, 0x65, 0x00, 0x64, 0x00, 0x00, 0x00, 0x00, 0x00];

function decodeBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// What replaces a tile's start-of-image marker so that it becomes a JPEG file of its own: tiles of a TIFF lack their
// tables, which are stored once per level.
function jpegHead({ rgb, tables }) {
  const shared = tables ? decodeBase64(tables).slice(2, -2) : new Uint8Array(0);
  return new Uint8Array([0xff, 0xd8, ...(rgb ? ADOBE_RGB : []), ...shared]);
}

class SlideStore {
  constructor(description) {
    this.description = description;
    this.indices = new Map();
    this.heads = description.levels.map((level) => (level.jpeg ? jpegHead(level.jpeg) : null));
    this.fetched = 0;
  }

  async range(url, range, signal) {
    const response = await fetch(url, { headers: { Range: `bytes=${range}` }, signal });
    if (response.status === 404) return null;
    if (response.status !== 206) throw new Error(`${url}: ${response.status} instead of a byte range`);
    return response.arrayBuffer();
  }

  // The index of a shard: (offset, size) per tile; null where the shard, all of it empty, does not exist.
  index(number, row, column) {
    const level = this.description.levels[number];
    const url = `/${this.description.store}/${level.path}/c/0/${row}/${column}`;
    if (!this.indices.has(url)) {
      const bytes = level.shard_rows * level.shard_columns * 16;
      const found = this.range(url, `-${bytes + CRC_BYTES}`)
        .then((tail) => (tail ? new BigUint64Array(tail.slice(0, bytes)) : null));
      this.indices.set(url, found);
      found.catch(() => this.indices.delete(url));
    }
    return { url, entries: this.indices.get(url) };
  }

  // One tile as a Blob the browser can decode; null where the slide is empty.
  async tile(number, row, column, signal) {
    const level = this.description.levels[number];
    if (!level.jpeg) {
      const response = await fetch(encodeURI(`/${this.description.tiles}/${number}/${row}/${column}`), { signal });
      if (!response.ok) throw new Error(`tile ${number}/${row}/${column}: ${response.status}`);
      this.fetched += 1;
      return response.blob();
    }
    const { url, entries } = this.index(
      number, Math.floor(row / level.shard_rows), Math.floor(column / level.shard_columns));
    const index = await entries;
    const place = (row % level.shard_rows) * level.shard_columns + (column % level.shard_columns);
    if (!index || index[2 * place] === ABSENT) return null;
    const start = Number(index[2 * place]);
    const data = await this.range(url, `${start}-${start + Number(index[2 * place + 1]) - 1}`, signal);
    this.fetched += 1;
    return new Blob([this.heads[number], new Uint8Array(data, 2)], { type: "image/jpeg" });
  }
}

// OpenSeadragon's view of a store; its level 0 is the coarsest.
class StoreTileSource extends OpenSeadragon.TileSource {
  constructor(store) {
    const { width, height, levels } = store.description;
    super({ width, height, tileSize: levels[0].tile_width, minLevel: 0, maxLevel: levels.length - 1 });
    this.store = store;
    this.blanks = new Map();
  }

  number(level) { return this.store.description.levels.length - 1 - level; }
  stored(level) { return this.store.description.levels[this.number(level)]; }
  getLevelScale(level) { return 1 / this.stored(level).downsample; }
  getTileWidth(level) { return this.stored(level).tile_width; }
  getTileHeight(level) { return this.stored(level).tile_height; }
  getTileUrl(level, x, y) { return `${this.store.description.store}/${this.number(level)}/${y}/${x}`; }
  hasTransparency() { return false; }

  getNumTiles(level) {
    const { width, height, tile_width: w, tile_height: h } = this.stored(level);
    return new OpenSeadragon.Point(Math.ceil(width / w), Math.ceil(height / h));
  }

  async blank(level) {
    if (!this.blanks.has(level)) {
      const canvas = new OffscreenCanvas(this.getTileWidth(level), this.getTileHeight(level));
      const context = canvas.getContext("2d");
      context.fillStyle = "white";
      context.fillRect(0, 0, canvas.width, canvas.height);
      this.blanks.set(level, canvas.convertToBlob());
    }
    return this.blanks.get(level);
  }

  downloadTileStart(context) {
    const { level, x, y } = context.tile;
    context.userData.abort = new AbortController();
    this.store.tile(this.number(level), y, x, context.userData.abort.signal)
      .then(async (blob) => context.finish(blob || await this.blank(level), null, "rasterBlob"))
      .catch((error) => context.fail(String(error), null));
  }

  downloadTileAbort(context) { context.userData.abort.abort(); }
}
