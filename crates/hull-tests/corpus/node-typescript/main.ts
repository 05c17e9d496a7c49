const words: string[] = ["typed", "words"];
console.log(words.join(" "));
