const words: string[] = ["typed", "words"];
declare const console: { log(text: string): void };
console.log(words.join(" "));
